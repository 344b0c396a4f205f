"""However much a statement gives, this process holds little of it. Measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.errors import SandboxServerError
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place

ROOT = Path(__file__).parents[3]
MIB = 1024**2
MOST = 96 * MIB
"""Above what the process needs for a small query: far less than what the statements make."""

PROGRAM = """
import asyncio, json, resource, sys
from sandbox_server.access.database.databases import Query
from sandbox_server.errors import SandboxServerError
from tests.access.database.support import ME, Place, databases

async def main(dialect, dsn, sql):
    place = Place(dialect, dsn)
    rules = place.rules(functions=frozenset(["count", "group_concat", "printf", "hex", "replace"]))
    shop = databases(place, place.settings(rules, time=20.0), blind=True)
    await shop.query(Query("SELECT COUNT(*) FROM customers"), caller=ME)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        answer = await shop.query(Query(sql, limit=1000), caller=ME)
        said = {"rows": len(answer.rows), "truncated": answer.truncated, "cut": len(answer.cut),
                "first": len(json.dumps(answer.rows[:1]))}
    except SandboxServerError as error:
        said = {"error": error.code, "message": error.message}
    await shop.aclose()
    said["grown"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps(said))

asyncio.run(main(*sys.argv[1:]))
"""


def measured(place: Place, sql: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, place.dialect, place.dsn, sql],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


ROWS = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10000000)"
    " SELECT x, 'some text beside it' FROM n",
    "postgres": "SELECT x, 'some text beside it' FROM generate_series(1, 10000000) x",
    "mysql": "SELECT seq, 'some text beside it' FROM seq_1_to_10000000 LIMIT 10000000",
}


def test_ten_million_rows_cost_as_much_as_a_page(place: Place) -> None:
    said = measured(place, ROWS[place.dialect])
    assert (said["rows"], said["truncated"]) == (1000, True)
    assert int(str(said["grown"])) < 32 * MIB


def test_a_cell_of_a_gigabyte_is_cut_on_the_server(postgres_place: Place) -> None:
    said = measured(
        postgres_place, "SELECT repeat(x, 100000000) AS big, 1 AS one FROM (VALUES ('0123456789')) v(x)"
    )
    assert (said["rows"], said["cut"]) == (1, 1)
    assert int(str(said["first"])) < 70_000
    assert int(str(said["grown"])) < 32 * MIB


@pytest.mark.parametrize(
    "value",
    [
        "decode(repeat('00', 60000000), 'hex')",
        "to_jsonb(repeat('x', 60000000))",
        "array_fill('xxxxxxxxxx'::text, ARRAY[2000000])",
        "ROW(repeat('x', 60000000), 1)",
        "repeat('x', 60000000)::varchar::name || repeat('x', 60000000)",
        "to_tsvector('simple', (SELECT string_agg(md5(i::text), ' ') FROM generate_series(1, 20000) i))",
        "xmlelement(name x, repeat('x', 60000000))",
        "(10::numeric ^ 100000)",
        "int4range(1, 2)::text || repeat('x', 60000000)",
    ],
)
def test_large_values_of_each_kind_are_cut_on_the_server(postgres_place: Place, value: str) -> None:
    said = measured(postgres_place, f"SELECT {value} AS big")
    assert "error" not in said, said
    assert (said["rows"], said["cut"]) == (1, 1)
    assert int(str(said["first"])) < 100_000
    assert int(str(said["grown"])) < 32 * MIB


def test_many_large_cells_are_no_more(postgres_place: Place) -> None:
    many = ", ".join(f"repeat('x', 1000000) AS c{index}" for index in range(500))
    said = measured(postgres_place, f"SELECT {many} FROM generate_series(1, 1000)")
    assert int(str(said["grown"])) < MOST
    assert said["truncated"] is True


def test_a_row_that_mariadb_makes_too_large_is_not_read(mariadb_place: Place) -> None:
    big = "REPEAT('x', 15000000)"
    said = measured(mariadb_place, f"SELECT {big}, {big}, {big}, {big}, {big}, {big}, {big}, {big}")
    assert said["error"] == "limit_exceeded"
    assert "row" in str(said["message"])
    assert int(str(said["grown"])) < 32 * MIB


def test_a_value_that_sqlite_makes_too_large_is_refused(sqlite_place: Place) -> None:
    sql = "SELECT replace(hex(printf('%.*c', 4000000, 'x')), '7', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy')"
    said = measured(sqlite_place, sql)
    assert said["error"] == "limit_exceeded", said
    assert int(str(said["grown"])) < MOST


def test_a_value_that_sqlite_gives_up_is_null(sqlite_place: Place) -> None:
    said = measured(sqlite_place, "SELECT printf('%.*c', 1000000000, 'x')")
    assert (said["rows"], said["first"]) == (1, len("[[null]]"))
    assert int(str(said["grown"])) < 32 * MIB


async def test_a_cut_value_says_where_it_is(place: Place, opened: Open) -> None:
    sql = {
        "sqlite": "SELECT 1, printf('%.*c', 100, 'x')",
        "postgres": "SELECT 1, repeat('x', 100)",
        "mysql": "SELECT 1, REPEAT('x', 100)",
    }[place.dialect]
    rules = place.rules(functions=frozenset({"printf"}))
    answer = await opened(place, place.settings(rules, cell=64)).query(Query(sql), caller=ME)
    assert answer.rows == ((1, "x" * 64),)
    assert answer.cut == ((0, 1),)


async def test_ten_thousand_columns_are_refused(place: Place, opened: Open) -> None:
    shop = opened(place)
    with pytest.raises(SandboxServerError):
        await shop.query(Query(f"SELECT {', '.join(['1'] * 10_000)}"), caller=ME)
    assert (await shop.query(Query("SELECT COUNT(*) FROM orders"), caller=ME)).rows == ((3,),)
