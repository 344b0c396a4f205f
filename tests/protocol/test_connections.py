"""Whose call it is, and that the end of a connection is heard of."""

from __future__ import annotations

import anyio

from sandbox_server.protocol.connections import closing_connections
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import FakeExecutor, connect


async def test_calls_on_one_connection_share_an_id_and_others_do_not(executor: FakeExecutor) -> None:
    server = build_server(executor, version="0")
    for _ in range(2):
        async with connect(server, "legacy") as client:
            for _ in range(2):
                await client.call_tool("code_execution", {"code": "1"})
    first, again, second, _ = executor.connections
    assert first == again
    assert first is not None
    assert second not in (None, first)


async def test_the_end_of_a_connection_closes_its_session(executor: FakeExecutor) -> None:
    async with connect(build_server(executor, version="0"), "legacy") as client:
        await client.call_tool("code_execution", {"code": "1"})
        assert executor.closed == []
    assert executor.closed == [executor.connections[0]]


async def test_a_connection_that_ran_nothing_has_nothing_to_close(executor: FakeExecutor) -> None:
    async with connect(build_server(executor, version="0"), "legacy") as client:
        await client.list_tools()
    assert executor.closed == []


async def test_stateless_calls_belong_to_no_connection(executor: FakeExecutor) -> None:
    async with connect(build_server(executor, version="0"), "2026-07-28") as client:
        await client.call_tool("code_execution", {"code": "1"})
    assert executor.connections == [None]
    assert executor.closed == []


async def test_ending_does_not_wait_for_a_slow_close_but_shutting_down_does() -> None:
    may_close = anyio.Event()
    closed: list[str] = []

    async def close(connection: str) -> None:
        await may_close.wait()
        closed.append(connection)

    with anyio.fail_after(5):
        async with closing_connections(close) as state:
            state.connection_ended("a")
            assert closed == []
            may_close.set()
    assert closed == ["a"]


async def test_a_failing_close_takes_nothing_else_down() -> None:
    closed: list[str] = []

    async def close(connection: str) -> None:
        if connection == "a":
            raise RuntimeError("engine gone")
        closed.append(connection)

    async with closing_connections(close) as state:
        state.connection_ended("a")
        state.connection_ended("b")
    assert closed == ["b"]


async def test_a_close_under_way_survives_cancellation() -> None:
    closed: list[str] = []

    async def close(connection: str) -> None:
        await anyio.lowlevel.checkpoint()
        closed.append(connection)

    with anyio.CancelScope() as scope:
        async with closing_connections(close) as state:
            state.connection_ended("a")
            await anyio.lowlevel.checkpoint()
            scope.cancel()
            await anyio.sleep_forever()
    assert closed == ["a"]
