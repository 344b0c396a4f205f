"""TPC-H's queries pass as they are, and what runs gives the same rows as what was written."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import asyncpg
import pytest

from sandbox_server.guards.sql import Dialect, SqlRules, Verdict, judge
from tests.databases import Server
from tests.guards.sql import tpch

# These find nothing in data this small; that they run is what counts.
_EMPTY = {"Q2", "Q11", "Q16", "Q20", "Q21", "Q22", "Q5", "Q7", "Q8", "Q10", "Q17", "Q18", "Q19", "Q15"}


def _judged(dialect: Dialect, sql: str) -> Verdict:
    schema = {"postgres": "tpch", "sqlite": "main"}[dialect]
    rules = SqlRules(
        dialect,
        relations_allow=(f"{schema}.*",),
        columns_deny=("*.password",),
        functions=frozenset({"safe_builtin"}),
        default_schema=schema,
    )
    columns = {
        f"{schema}.{name}": tuple(each.split()[0] for each in definition)
        for name, definition in tpch.SCHEMA.items()
    }
    verdict = judge(sql, rules, operation="select", columns=columns)
    assert verdict.allowed, verdict
    return verdict


def test_there_are_22_of_them() -> None:
    assert list(tpch.POSTGRES) == [f"Q{number}" for number in range(1, 23)]


def test_on_sqlite_they_give_the_same_rows() -> None:
    connection = sqlite3.connect(":memory:")
    for name, definition in tpch.SCHEMA.items():
        connection.execute(f"CREATE TABLE {name} ({', '.join(definition)})")
    for name, rows in tpch.rows().items():
        connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    found = set()
    for name, sql in tpch.SQLITE.items():
        wanted = connection.execute(sql).fetchall()
        assert connection.execute(_judged("sqlite", sql).sql).fetchall() == wanted, name
        found |= {name} if wanted and wanted[0][0] is not None else set()
    connection.close()
    assert found >= set(tpch.SQLITE) - _EMPTY


def test_on_postgres_they_give_the_same_rows(postgres: Server) -> None:
    found = asyncio.run(_on_postgres(postgres))
    assert found >= set(tpch.POSTGRES) - _EMPTY


async def _on_postgres(server: Server) -> set[str]:
    connection: Any = await asyncpg.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=server.database,
    )
    try:
        await connection.execute(
            "DROP SCHEMA IF EXISTS tpch CASCADE; CREATE SCHEMA tpch; SET search_path = tpch"
        )
        for name, definition in tpch.SCHEMA.items():
            await connection.execute(f"CREATE TABLE {name} ({', '.join(definition)})")
        for name, rows in tpch.rows().items():
            values = ", ".join("(" + ", ".join(f"'{value}'" for value in row) + ")" for row in rows)
            await connection.execute(f"INSERT INTO {name} VALUES {values}")
        found = set()
        for name, sql in tpch.POSTGRES.items():
            wanted = await connection.fetch(sql)
            assert await connection.fetch(_judged("postgres", sql).sql) == wanted, name
            found |= {name} if wanted and wanted[0][0] is not None else set()
        return found
    finally:
        await connection.execute("DROP SCHEMA tpch CASCADE")
        await connection.close()


@pytest.mark.parametrize("name", tpch.POSTGRES)
def test_each_names_the_relations_it_reads(name: str) -> None:
    verdict = _judged("postgres", tpch.POSTGRES[name])
    written = {f"tpch.{table}" for table in tpch.SCHEMA if f"{table}" in tpch.POSTGRES[name]}
    assert set(verdict.relations) <= written
    assert verdict.relations
