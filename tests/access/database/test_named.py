"""Named queries: the operator's SQL, the caller's typed values."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.access.database.granted import settings_of
from sandbox_server.access.database.settings import NamedQuery, Param
from sandbox_server.errors import InvalidRequest, NotFound, PolicyDenied
from sandbox_server.policy import grants
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place

EVERY_TYPE = {
    "i": Param("int", minimum=1, maximum=10),
    "f": Param("float", required=False, default=1.5),
    "d": Param("decimal", maximum="99.99"),
    "t": Param("text", max_length=5, allowed=("a", "b'")),
    "b": Param("bool", required=False),
    "day": Param("date", minimum="2026-01-01"),
    "at": Param("timestamp"),
    "u": Param("uuid"),
}
GOOD = {
    "i": 3, "d": "10.50", "t": "b'", "day": "2026-01-02", "at": "2026-01-02T03:04:05",
    "u": "6e3f5a0e-0000-4000-8000-000000000000",
}  # fmt: skip


async def test_values_of_each_type_arrive(place: Place, opened: Open) -> None:
    casts = {"postgres": "CAST(:{} AS {})"}.get(place.dialect, ":{}")
    types = ["int", "float8", "numeric", "text", "boolean", "date", "timestamp", "uuid"]
    columns = ", ".join(casts.format(name, kind) for name, kind in zip(EVERY_TYPE, types, strict=True))
    queries = {"all": NamedQuery(f"SELECT {columns} FROM customers WHERE id = 1", EVERY_TYPE)}
    shop = opened(place, place.settings(queries=queries))
    (row,) = (await shop.query(Query("@all", params=GOOD), caller=ME)).rows
    at = "2026-01-02 03:04:05" if place.dialect == "mysql" else "2026-01-02T03:04:05"
    assert row == (3, 1.5, "10.50", "b'", None, "2026-01-02", at, GOOD["u"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"i": 11}, "params.i: must be at most 10"),
        ({"i": 0}, "params.i: must be at least 1"),
        ({"i": 1.0}, "params.i: must be an integer"),
        ({"i": True}, "params.i: must be an integer"),
        ({"i": "1"}, "params.i: must be an integer"),
        ({"i": None}, "params.i: must not be null"),
        ({"d": "100"}, "params.d: must be at most 99.99"),
        ({"d": "NaN"}, "params.d: must be a number"),
        ({"d": "1e999999"}, "params.d: must be a number"),
        ({"t": "c"}, "params.t: must be one of a, b'"),
        ({"t": "toolong"}, "params.t: at most 5"),
        ({"day": "2025-12-31"}, "params.day: must be at least 2026-01-01"),
        ({"day": "yesterday"}, "params.day: must be a date"),
        ({"at": 5}, "params.at: must be a time"),
        ({"u": "6e3f"}, "params.u: must be a UUID"),
        ({"b": 1}, "params.b: must be true or false"),
        ({"x": 1}, "params.x: unknown"),
    ],
)
async def test_a_value_that_is_not_what_it_should_be_is_named(
    sqlite_place: Place, opened: Open, change: dict[str, Any], problem: str
) -> None:
    queries = {"all": NamedQuery("SELECT " + ", ".join(f":{name}" for name in EVERY_TYPE), EVERY_TYPE)}
    shop = opened(sqlite_place, sqlite_place.settings(queries=queries))
    with pytest.raises(InvalidRequest) as refused:
        await shop.query(Query("@all", params=GOOD | change), caller=ME)
    assert refused.value.message.startswith(problem)


async def test_a_named_query_can_read_what_its_caller_can_not(place: Place, opened: Open) -> None:
    """By rules of its own, also under the engine's backstops."""
    rules = place.rules(relations_allow=(f"{place.schema}.secret",))
    query = NamedQuery("SELECT COUNT(*) FROM secret WHERE id = :id", {"id": Param("int")}, rules=rules)
    settings = place.settings(place.rules(relations_allow=()), queries={"secrets": query})
    shop = opened(place, settings, blind=False)
    assert (await shop.query(Query("@secrets", params={"id": 1}), caller=ME)).rows == ((1,),)
    with pytest.raises(PolicyDenied):
        await shop.query(Query("SELECT COUNT(*) FROM secret"), caller=ME)


async def test_a_name_that_is_none_is_told_which_there_are(sqlite_place: Place, opened: Open) -> None:
    shop = opened(sqlite_place, sqlite_place.settings(queries={"a": NamedQuery("SELECT 1")}))
    with pytest.raises(NotFound) as refused:
        await shop.query(Query("@b"), caller=ME)
    assert "@a" in refused.value.hint


async def test_a_named_query_has_one_operation(sqlite_place: Place, opened: Open) -> None:
    query = NamedQuery("SELECT id FROM customers", operation="select")
    shop = opened(sqlite_place, sqlite_place.settings(sqlite_place.rules(mode="write"), queries={"a": query}))
    with pytest.raises(InvalidRequest):
        await shop.query(Query("@a", "delete"), caller=ME)


def test_the_policys_grant_becomes_settings(sqlite_place: Place) -> None:
    written = {"q": grants.NamedQuery("SELECT :d", {"d": grants.Param("datetime", optional=True)})}
    grant = grants.DatabaseGrant(
        "shop", "roles.a.databases.shop", "shop-dsn", sqlite_place.rules(), frozenset({"select"}),
        rows=7, bytes=8, time=9.0, max_affected=10, queries=written,
    )  # fmt: skip
    settings = settings_of(grant)
    assert (settings.name, settings.dsn, settings.rules) == ("shop", "shop-dsn", grant.rules)
    limits = settings.limits
    assert (limits.rows, limits.bytes, limits.time, limits.max_affected) == (7, 8, 9.0, 10)
    assert settings.queries["q"].params["d"] == Param("timestamp", required=False)
