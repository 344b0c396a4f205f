"""A made-up year of sales: the same 10,000 rows every time, and what is true of them."""

from __future__ import annotations

import csv
import io
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta

SEED = 20260101
ROWS = 10_000
REGIONS = {"north": 1.0, "south": 0.7, "east": 1.3, "west": 0.9}
PRODUCTS = {"lamp": 3900, "desk": 24900, "chair": 12900, "shelf": 8900, "clock": 2900}
"""Cents."""


@dataclass(frozen=True)
class Sales:
    """`by_region` is the revenue in cents; `missing` counts the rows that don't say how many units."""

    csv: bytes
    by_region: dict[str, int]
    missing: int

    @property
    def total(self) -> int:
        return sum(self.by_region.values())

    @property
    def best(self) -> str:
        return max(self.by_region, key=self.by_region.__getitem__)


def make_sales(rows: int = ROWS, seed: int = SEED) -> Sales:
    """Summed up here without pandas, so that the sandbox's answer can be checked against it."""
    chance = random.Random(seed)  # noqa: S311 - data for a demo
    by_region: defaultdict[str, int] = defaultdict(int)
    missing = 0
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["date", "region", "product", "units", "price"])
    for _ in range(rows):
        day = date(2025, 1, 1) + timedelta(days=chance.randrange(365))
        (region,) = chance.choices(list(REGIONS), weights=list(REGIONS.values()))
        product = chance.choice(list(PRODUCTS))
        price = PRODUCTS[product] - chance.randrange(0, 500, 50)
        units = 1 + int(chance.expovariate(0.5)) + (day.month in (11, 12))
        if chance.random() < 0.01:
            missing += 1
            writer.writerow([day.isoformat(), region, product, "", f"{price / 100:.2f}"])
            continue
        by_region[region] += units * price
        writer.writerow([day.isoformat(), region, product, units, f"{price / 100:.2f}"])
    return Sales(out.getvalue().encode(), dict(by_region), missing)
