"""The sales as a database: an SQLite file, with customers whose addresses nobody may read."""

from __future__ import annotations

import csv
import io
import sqlite3
from contextlib import closing
from pathlib import Path

from demo.sales import Sales

CUSTOMERS = (("Ada", "ada@example.com"), ("Grace", "grace@example.com"))


def make_shop(sales: Sales, path: Path) -> None:
    """Money is in cents, so that SQL adds it up exactly."""
    rows = csv.DictReader(io.StringIO(sales.csv.decode()))
    with closing(sqlite3.connect(path)) as shop, shop:
        shop.execute("CREATE TABLE sales (date TEXT, region TEXT, product TEXT, units INT, cents INT)")
        shop.execute("CREATE TABLE customers (name TEXT, email TEXT)")
        shop.executemany("INSERT INTO customers VALUES (?, ?)", CUSTOMERS)
        shop.executemany(
            "INSERT INTO sales VALUES (?, ?, ?, ?, ?)",
            (
                (
                    row["date"],
                    row["region"],
                    row["product"],
                    int(row["units"]) if row["units"] else None,
                    round(100 * float(row["price"])),
                )
                for row in rows
            ),
        )
