"""Between calls: nothing is shared, nothing runs on, nothing is left open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import anyio
import anyio.lowlevel
import psutil
import pytest

from sandbox_server.access.database.databases import Databases, Query
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.errors import Busy, SandboxServerError
from sandbox_server.execution.api import Caller
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place, databases

ENDLESS = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n",
    "postgres": "SELECT pg_sleep(40)",
    "mysql": "SELECT SLEEP(40)",
}
LEAVE = {
    "postgres": [
        "SELECT set_config('search_path', 'elsewhere', false)",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT set_config('my.note', 'left', false)",
        "SELECT pg_advisory_lock(77)",
    ],
    "mysql": [
        "SET @note = 'left'",
        "SET SESSION sql_mode = 'ANSI_QUOTES'",
        "SET SESSION TRANSACTION READ WRITE",
        "SET SESSION max_statement_time = 0",
        "SELECT GET_LOCK('mine', 0)",
        "CREATE TEMPORARY TABLE customers (id INTEGER)",
        "PREPARE x FROM 'SELECT 1'",
    ],
}
LOOK = {
    "postgres": "SELECT current_setting('search_path'), current_setting('statement_timeout'),"
    " current_setting('default_transaction_read_only'), NULLIF(current_setting('my.note', true), ''),"
    " (SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'), pg_backend_pid()",
    "mysql": "SELECT @note, @@sql_mode, @@tx_read_only, @@max_statement_time, IS_FREE_LOCK('mine'),"
    " (SELECT COUNT(*) FROM customers), CONNECTION_ID()",
}


@pytest.fixture(params=["postgres", "mysql"])
def server_place(request: pytest.FixtureRequest) -> Place:
    name = {"postgres": "postgres_place", "mysql": "mariadb_place"}[request.param]
    found: Place = request.getfixturevalue(name)
    return found


def running(place: Place) -> list[str]:
    """What the server itself says runs on it, or whether a worker of SQLite's is left."""
    if place.dialect == "sqlite":
        return [each.name for each in threading.enumerate() if "connection_worker" in each.name]
    sql = {
        "postgres": "SELECT query FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%pg_sleep(40)%'"
        " AND pid <> pg_backend_pid()",
        "mysql": "SELECT info FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(40)%'",
    }[place.dialect]
    return [line for line in place.run(sql).splitlines() if line]


async def until(condition: Callable[[], bool]) -> None:
    """Looks again until it is so."""
    with anyio.fail_after(10):
        while not await anyio.to_thread.run_sync(condition):
            await anyio.lowlevel.checkpoint()


async def ask(shop: Databases, sql: str, **more: object) -> tuple[object, ...]:
    (row,) = (await shop.query(Query(sql, **more), caller=ME)).rows  # type: ignore[arg-type]
    return row


async def test_nothing_of_a_session_is_left_to_the_next_call(server_place: Place, opened: Open) -> None:
    shop = opened(server_place, server_place.settings(connections=1))
    before = await ask(shop, LOOK[server_place.dialect])
    for sql in LEAVE[server_place.dialect]:
        with suppress(SandboxServerError):
            await shop.query(Query(sql), caller=Caller("another"))
        assert await ask(shop, LOOK[server_place.dialect]) == before, sql


async def test_a_connection_is_used_again_or_not_as_told(server_place: Place, opened: Open) -> None:
    pid = {"postgres": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}[server_place.dialect]
    kept = opened(server_place)
    assert await ask(kept, pid) == await ask(kept, pid)
    fresh = opened(server_place, server_place.settings(reset="reconnect"))
    assert await ask(fresh, pid) != await ask(fresh, pid)


async def test_a_cancelled_call_stops_on_the_server(place: Place, opened: Open) -> None:
    shop = opened(place, place.settings(time=30.0))
    async with anyio.create_task_group() as group:
        group.start_soon(ask, shop, ENDLESS[place.dialect])
        await until(lambda: bool(running(place)))
        group.cancel_scope.cancel()
    await until(lambda: not running(place))
    assert await ask(shop, "SELECT COUNT(*) FROM customers") == (3,)


async def test_a_server_that_ignores_its_clock_is_stopped_by_ours(server_place: Place, opened: Open) -> None:
    """The statement switches off the server's time limit, and then takes its time."""
    off = {
        "postgres": "SELECT pg_sleep(40) FROM (SELECT set_config('statement_timeout', '0', true) OFFSET 0) x",
        "mysql": "SET STATEMENT max_statement_time=0 FOR SELECT SLEEP(40)",
    }[server_place.dialect]
    shop = opened(server_place, server_place.settings(time=0.3))
    with pytest.raises(SandboxServerError) as refused:
        await shop.query(Query(off), caller=ME)
    assert refused.value.code == "limit_exceeded"
    await until(lambda: not running(server_place))


async def test_what_came_too_late_for_a_connection_is_told_to_come_again(place: Place, opened: Open) -> None:
    shop = opened(place, place.settings(connections=1, wait=0.1, time=30.0))
    async with anyio.create_task_group() as group:
        group.start_soon(ask, shop, ENDLESS[place.dialect])
        await until(lambda: bool(running(place)))
        with pytest.raises(Busy):
            await shop.query(Query("SELECT id FROM customers"), caller=ME)
        group.cancel_scope.cancel()


async def test_a_dead_connection_is_replaced(server_place: Place, opened: Open) -> None:
    shop = opened(server_place)
    pid = {"postgres": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}[server_place.dialect]
    (first,) = await ask(shop, pid)
    if server_place.dialect == "postgres":
        server_place.run(f"SELECT pg_terminate_backend({first}, 5000)")
    else:
        server_place.run(f"KILL CONNECTION {first}")
        gone = f"SELECT COUNT(*) FROM information_schema.processlist WHERE id = {first}"
        await until(lambda: server_place.run(gone) == "0")
    (second,) = await ask(shop, pid)
    assert first != second


async def test_many_at_once_get_their_own_rows(place: Place, opened: Open) -> None:
    shop = opened(place, place.settings(connections=3, wait=10.0))
    seen: dict[int, object] = {}

    async def one(number: int) -> None:
        sql = "SELECT name FROM customers WHERE id = :id"
        seen[number] = (await ask(shop, sql, params={"id": number % 3 + 1}))[0]

    async with anyio.create_task_group() as group:
        for number in range(24):
            group.start_soon(one, number)
    assert seen == {number: ("Ada", "Bob", "Cléo")[number % 3] for number in range(24)}


def connections(place: Place) -> int:
    if place.dialect == "sqlite":
        return sum("shop of" in each.path for each in psutil.Process().open_files())
    sql = {
        "postgres": "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'sandbox-server'",
        "mysql": "SELECT COUNT(*) FROM information_schema.processlist WHERE db = 'app' AND info IS NULL",
    }[place.dialect]
    return int(place.run(sql))


async def test_closing_leaves_no_connection(place: Place) -> None:
    shop = databases(place, place.settings(), blind=True)
    await ask(shop, "SELECT COUNT(*) FROM customers")
    await shop.schema("shop", caller=ME)
    await shop.aclose()
    await until(lambda: connections(place) == 0)


async def test_a_new_policy_closes_what_it_changed_and_nothing_else(
    server_place: Place, opened: Open
) -> None:
    pid = {"postgres": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}[server_place.dialect]
    settings = server_place.settings()
    shop = opened(server_place, settings)
    first = await ask(shop, pid)
    narrower = replace(settings, rules=replace(settings.rules, relations_deny=("*.orders",)))
    await shop.keep([narrower])
    assert await ask(shop, pid) == first
    await shop.keep([replace(settings, dsn="another")])
    assert await ask(shop, pid) != first


async def test_a_connection_in_use_goes_when_its_call_ends(server_place: Place, opened: Open) -> None:
    shop = opened(server_place, server_place.settings(time=30.0))
    async with anyio.create_task_group() as group:
        group.start_soon(ask, shop, ENDLESS[server_place.dialect])
        await until(lambda: bool(running(server_place)))
        await shop.keep([])
        assert running(server_place)
        group.cancel_scope.cancel()
    await until(lambda: not running(server_place))
    await until(lambda: connections(server_place) == 0)


def test_a_dsn_is_in_no_representation(place: Place) -> None:
    settings: DatabaseSettings = place.settings()
    assert "shop-dsn" not in repr(settings)


async def test_one_caller_leaves_a_connection_to_the_others(place: Place, opened: Open) -> None:
    there = opened(place, place.settings(connections=2, wait=0.3, time=5.0))
    async with anyio.create_task_group() as tasks:

        async def forever() -> None:
            with suppress(SandboxServerError):
                await there.query(Query(ENDLESS[place.dialect]), caller=ME)

        tasks.start_soon(forever)
        with anyio.fail_after(10):
            while not there._turns._shares:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(Busy, match="one caller"):
                await there.query(Query("SELECT 1"), caller=ME)
            assert (await there.query(Query("SELECT 1"), caller=Caller("other"))).rows == ((1,),)
        tasks.cancel_scope.cancel()
    assert not there._turns._shares, "nothing is kept of who has left"
