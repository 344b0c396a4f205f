"""TPC-H's 22 queries as they are written, through the guard, the backstops and the bounds of values."""

from __future__ import annotations

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.guards.sql.models import SqlRules
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place
from tests.databases import Server
from tests.guards.sql import tpch


@pytest.fixture(params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A database with a very small TPC-H in it."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("tpch") / "tpch.db"
        place = Place("sqlite", f"sqlite:///{path}", path=path)
    else:
        shop: Place = request.getfixturevalue("postgres_place")
        assert isinstance(shop.server, Server)
        shop.run("DROP DATABASE IF EXISTS tpch")
        shop.run("CREATE DATABASE tpch")
        place = Place("postgres", shop.dsn.rsplit("/", 1)[0] + "/tpch", shop.server)
    parts = [f"CREATE TABLE {name} ({', '.join(definition)})" for name, definition in tpch.SCHEMA.items()]
    for name, rows in tpch.rows().items():
        values = ", ".join("(" + ", ".join(f"'{value}'" for value in row) + ")" for row in rows)
        parts.append(f"INSERT INTO {name} VALUES {values}")
    for part in parts:
        place.run(f"{part};")
    return place


async def test_all_of_tpc_h_runs(filled: Place, opened: Open) -> None:
    rules = SqlRules(
        filled.dialect,
        relations_allow=(f"{filled.schema}.*",),
        columns_deny=("*.password",),
        functions=frozenset({"safe_builtin"}),
        default_schema=filled.schema,
    )
    database = opened(filled, filled.settings(rules, time=20.0), blind=False)
    queries = {"sqlite": tpch.SQLITE, "postgres": tpch.POSTGRES}[filled.dialect]
    found = {
        name: len((await database.query(Query(sql, limit=1000), caller=ME)).rows)
        for name, sql in queries.items()
    }
    assert len(found) == 22
    assert sum(found.values()) > 20
