"""Reading: rows, columns and values, parameters, pages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.errors import InvalidRequest, LimitExceeded, NotFound, SandboxServerError
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place


async def test_rows_come_with_their_columns(place: Place, opened: Open) -> None:
    answer = await opened(place).query(Query("SELECT id, name FROM customers ORDER BY id"), caller=ME)
    assert [column.name for column in answer.columns] == ["id", "name"]
    assert answer.rows == ((1, "Ada"), (2, "Bob"), (3, "Cléo"))
    assert (answer.truncated, answer.next_offset, answer.affected) == (False, None, None)
    assert answer.database == "shop"
    assert 0 < answer.elapsed < 5


async def test_columns_of_one_name_stay_apart(place: Place, opened: Open) -> None:
    sql = "SELECT c.id, o.id FROM customers c JOIN orders o ON o.customer_id = c.id ORDER BY o.id"
    answer = await opened(place).query(Query(sql), caller=ME)
    assert [column.name for column in answer.columns] == ["id", "id"]
    assert answer.rows == ((1, 1), (1, 2), (2, 3))


async def test_a_page_says_where_the_next_one_begins(place: Place, opened: Open) -> None:
    shop = opened(place)
    sql = "SELECT id FROM customers ORDER BY id DESC"
    first = await shop.query(Query(sql, limit=2), caller=ME)
    assert (first.rows, first.truncated, first.next_offset) == (((3,), (2,)), True, 2)
    second = await shop.query(Query(sql, limit=2, offset=2), caller=ME)
    assert (second.rows, second.truncated, second.next_offset) == (((1,),), False, None)


async def test_a_limit_of_the_querys_own_holds_too(place: Place, opened: Open) -> None:
    shop = opened(place)
    assert len((await shop.query(Query("SELECT id FROM customers ORDER BY id LIMIT 1"), caller=ME)).rows) == 1
    more = await shop.query(Query("SELECT id FROM customers ORDER BY id LIMIT 3", limit=2), caller=ME)
    assert (more.rows, more.truncated) == (((1,), (2,)), True)


async def test_bytes_end_a_page_as_rows_do(place: Place, opened: Open) -> None:
    shop = opened(place, place.settings(bytes=2000))
    tables = "customers a, customers b, customers c, customers d, customers e, orders f, orders g"
    sql = f"SELECT a.name FROM {tables}"
    answer = await shop.query(Query(sql, limit=1000), caller=ME)
    assert answer.truncated
    assert 50 < len(answer.rows) < 400
    assert answer.next_offset == len(answer.rows)


HOSTILE = [
    "' OR 1=1 -- ",
    "\\' OR 1=1 -- ",
    '"; DROP TABLE orders; --',
    "/*!1*/",
    "%s %(x)s :x $1",
    "\u02bc",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_parameter_is_a_value_whatever_is_in_it(place: Place, opened: Open, value: str) -> None:
    shop = opened(place)
    sql = "SELECT id FROM customers WHERE name = :x"
    assert (await shop.query(Query(sql, params={"x": value}), caller=ME)).rows == ()
    echo = "SELECT :x FROM customers WHERE id = :id"
    assert (await shop.query(Query(echo, params={"x": value, "id": 1}), caller=ME)).rows == ((value,),)


async def test_a_time_without_a_zone_is_utc_and_one_with_a_zone_is_converted(
    postgres_place: Place, opened: Open
) -> None:
    shop = opened(postgres_place)
    sql = "SELECT CAST(:at AS timestamptz), CAST(:at AS timestamptz) AT TIME ZONE 'UTC' = :plain"
    for at, plain in (("2026-01-02T03:04:05", "2026-01-02T03:04:05"), ("2026-01-02T03:04:05+02:00",) * 2):
        answer = await shop.query(Query(sql, params={"at": at, "plain": plain}), caller=ME)
        assert answer.rows[0][1] is True


async def test_a_parameter_can_occur_twice_and_be_a_limit(place: Place, opened: Open) -> None:
    sql = "SELECT id FROM customers WHERE id >= :n AND tier <= :n LIMIT :n"
    answer = await opened(place).query(Query(sql, params={"n": 1}), caller=ME)
    assert len(answer.rows) == 1


async def test_dates_and_decimals_compare_as_what_the_column_is(place: Place, opened: Open) -> None:
    sql = "SELECT id FROM orders WHERE placed >= :day AND total < :most ORDER BY id"
    answer = await opened(place).query(Query(sql, params={"day": "2026-01-02", "most": 10}), caller=ME)
    assert answer.rows == ((3,),)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({}, "params.x"),
        ({"x": 1, "y": 2}, "params.y"),
        ({"x": [1]}, "params.x"),
        ({"x": "a" * 70_000}, "params.x"),
        ({"x": "\0"}, "params.x"),
        ({"x": 2**63}, "params.x"),
        ({"x y": 1}, "params"),
        ({"x": float("inf")}, "params.x"),
    ],
)
async def test_parameters_that_do_not_fit_are_named(
    place: Place, opened: Open, params: dict[str, Any], problem: str
) -> None:
    sql = "SELECT id FROM customers WHERE id = :x"
    with pytest.raises(InvalidRequest) as refused:
        await opened(place).query(Query(sql, params=params), caller=ME)
    assert problem in refused.value.message


@pytest.mark.parametrize("change", [{"limit": 0}, {"limit": 1001}, {"offset": -1}, {"offset": 1_000_001}])
async def test_limits_are_the_policys(place: Place, opened: Open, change: dict[str, int]) -> None:
    with pytest.raises(LimitExceeded):
        await opened(place).query(Query("SELECT id FROM customers", **change), caller=ME)


async def test_another_database_is_not_there(place: Place, opened: Open) -> None:
    with pytest.raises(NotFound) as refused:
        await opened(place).query(Query("SELECT 1", database="hr"), caller=ME)
    assert "shop" in refused.value.hint


POSTGRES_VALUES = {
    "1::int2": 1,
    "9007199254740993::int8": "9007199254740993",
    "1.5::float8": 1.5,
    "'NaN'::float8": "NaN",
    "'-Infinity'::float4": "-Infinity",
    "123456789012345678901234567890.10::numeric": "123456789012345678901234567890.10",
    "'NaN'::numeric": "NaN",
    "true": True,
    "NULL": None,
    "'é'::text": "é",
    "'ab'::char(4)": "ab  ",
    "'\\x00ff'::bytea": {"base64": "AP8="},
    "DATE '2026-01-31'": "2026-01-31",
    "'infinity'::timestamptz": "infinity",
    "TIMESTAMPTZ '2026-01-31 12:00:00+02'": "2026-01-31T10:00:00+00:00",
    "TIMESTAMP '2026-01-31 12:00:00.5'": "2026-01-31T12:00:00.5",
    "TIME '12:00'": "12:00:00",
    "INTERVAL '1 month 2 days 3 hours'": "P1M2DT3H",
    "'6e3f5a0e-0000-4000-8000-000000000000'::uuid": "6e3f5a0e-0000-4000-8000-000000000000",
    "ARRAY[1, NULL, 3]": [1, None, 3],
    "ARRAY[['a'], ['b']]": [["a"], ["b"]],
    """'{"a": [1, 2.5, 123456789012345678901, 0.1234567890123456789]}'::jsonb""": {
        "a": [1, 2.5, "123456789012345678901", "0.1234567890123456789"]
    },
    "'[1]'::json": [1],
    "'192.168.0.1/24'::inet": "192.168.0.1/24",
    "int4range(1, 5)": "[1,5)",
    "ROW(1, 'a')": {"f1": 1, "f2": "a"},
    "'10.5'::money": "$10.50",
    "point(1, 2)": "(1,2)",
    "B'101'": "101",
}


async def test_values_of_postgres_are_json(postgres_place: Place, opened: Open) -> None:
    shop = opened(postgres_place)
    answer = await shop.query(Query(f"SELECT {', '.join(POSTGRES_VALUES)}"), caller=ME)
    assert dict(zip(POSTGRES_VALUES, answer.rows[0], strict=True)) == POSTGRES_VALUES
    types = [column.type for column in answer.columns]
    assert types[:6] == ["int2", "int8", "float8", "float8", "float4", "numeric"]
    json.dumps(answer.rows, allow_nan=False)


MARIADB_VALUES = {
    "CAST(1 AS UNSIGNED)": 1,
    "18446744073709551615": "18446744073709551615",
    "1.5e0": 1.5,
    "CAST('12.30' AS DECIMAL(10, 2))": "12.30",
    "NULL": None,
    "'é'": "é",
    "X'00FF'": {"base64": "AP8="},
    "DATE '2026-01-31'": "2026-01-31",
    "TIMESTAMP '2026-01-31 12:00:00'": "2026-01-31T12:00:00",
    "TIME '-800:00:01'": "-800:00:01",
    "CAST('0000-00-00' AS DATE)": None,
    "JSON_ARRAY(1, 'a')": '[1, "a"]',
}


async def test_values_of_mariadb_are_json(mariadb_place: Place, opened: Open) -> None:
    answer = await opened(mariadb_place).query(Query(f"SELECT {', '.join(MARIADB_VALUES)}"), caller=ME)
    assert dict(zip(MARIADB_VALUES, answer.rows[0], strict=True)) == MARIADB_VALUES
    assert [column.type for column in answer.columns][:4] == ["int", "bigint", "double", "decimal"]
    json.dumps(answer.rows, allow_nan=False)


async def test_values_of_sqlite_are_json(sqlite_place: Place, opened: Open) -> None:
    sql = "SELECT 1, 9007199254740993, 1.5, 1e999, NULL, 'é', X'00FF', CAST(X'ED A0 80' AS TEXT)"
    answer = await opened(sqlite_place).query(Query(sql.replace("ED A0 80", "c3a9")), caller=ME)
    assert answer.rows == ((1, "9007199254740993", 1.5, "Infinity", None, "é", {"base64": "AP8="}, "é"),)


ERRORS = [
    ("SELECT nope FROM customers", "nope"),
    ("SELECT id FROM customers WHERE", None),
    ("SELECT COUNT(id, name) FROM customers GROUP BY", None),
]


@pytest.mark.parametrize(("sql", "names"), ERRORS)
async def test_a_wrong_statement_is_explained(
    place: Place, opened: Open, sql: str, names: str | None
) -> None:
    with pytest.raises(SandboxServerError) as refused:
        await opened(place).query(Query(sql), caller=ME)
    assert refused.value.code in ("invalid_request", "policy_denied")
    assert names is None or names in refused.value.message or refused.value.code == "policy_denied"
    assert "db://shop/schema" in refused.value.hint


async def test_an_error_names_nothing_that_the_statement_does_not(
    postgres_place: Place, opened: Open
) -> None:
    shop = opened(postgres_place)
    for sql in (
        "SELECT token::int FROM secret",
        "SELECT customer FROM orders",
        "SELECT id FROM public.secrets",
    ):
        with pytest.raises(SandboxServerError) as refused:
            await shop.query(Query(sql), caller=ME)
        said = str(refused.value)
        assert "canary" not in said
        assert "customer_id" not in said
        assert postgres_place.server is not None
        assert str(postgres_place.server.port) not in said


@pytest.mark.parametrize("wrong", ["password", "host", "database"])
async def test_a_database_that_can_not_be_reached_says_nothing_of_where_it_is(
    place: Place, opened: Open, wrong: str, tmp_path: Any
) -> None:
    if place.server is None:
        missing = tmp_path / "gone.db"
        missing.write_bytes(b"")
        other = Place("sqlite", f"sqlite:///{missing}", path=missing)
        shop = opened(other)
        missing.unlink() if wrong == "host" else missing.write_bytes(b"no database at all" * 100)
    else:
        server = place.server
        dsn = {
            "password": place.dsn.replace(server.password, "guess"),
            "host": place.dsn.replace(f":{server.port}/", ":1/"),
            "database": place.dsn.rsplit("/", 1)[0] + "/nowhere",
        }[wrong]
        shop = opened(Place(place.dialect, dsn, server))
    with pytest.raises(SandboxServerError) as refused:
        await shop.query(Query("SELECT id FROM customers"), caller=ME)
    said = str(refused.value)
    assert place.server is None or refused.value.code == "database_unavailable"
    for hidden in ("guess", "127.0.0.1", "root", "nowhere", "gone.db", "postgres'"):
        assert hidden not in said
