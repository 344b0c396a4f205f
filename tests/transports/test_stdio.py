"""The stdio transport: over pipes in this process, and as a real child process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters

from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from sandbox_server.transports.lines import LineTooLong, read_lines, write_all
from sandbox_server.transports.stdio import serve_stream
from tests.protocol.fake_executor import OK, FakeExecutor

ROOT = Path(__file__).parents[2]
CHILD = StdioServerParameters(
    command=sys.executable,
    args=["-m", "tests.transports.stdio_child"],
    cwd=ROOT,
    env={"PYTHONPATH": str(ROOT)},
)
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "0"},
    },
}
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Wire:
    """The client's ends of two pipes."""

    def __init__(self, reader: int, writer: int) -> None:
        self._lines = read_lines(reader, limit=10_000_000)
        self._writer = writer

    async def send(self, line: str | dict[str, Any]) -> None:
        text = line if isinstance(line, str) else json.dumps(line)
        await write_all(self._writer, text.encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        with anyio.fail_after(5):
            line = await anext(self._lines)
        assert not isinstance(line, LineTooLong)
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, line: str | dict[str, Any]) -> dict[str, Any]:
        await self.send(line)
        return await self.receive()

    def hang_up(self) -> None:
        os.close(self._writer)


@asynccontextmanager
async def wired(executor: FakeExecutor, *, handshake: bool = True) -> AsyncIterator[Wire]:
    server_in, client_out = os.pipe()
    client_in, server_out = os.pipe()
    wire = Wire(client_in, client_out)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                serve_stream, build_server(executor, version="0"), executor, server_in, server_out
            )
            if handshake:
                assert "result" in await wire.ask(INITIALIZE)
                await wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            yield wire
            tasks.cancel_scope.cancel()
    finally:
        for descriptor in (server_in, client_in, server_out):
            os.close(descriptor)


def tool_call(code: str, *, identifier: int | str = 7, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    params: dict[str, Any] = {"name": "code_execution", "arguments": {"code": code}}
    if meta is not None:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": identifier, "method": "tools/call", "params": params}


@pytest.mark.parametrize(
    ("line", "identifier", "code"),
    [
        ("{", None, types.PARSE_ERROR),
        ("hello", None, types.PARSE_ERROR),
        ("[" * 100_000, None, types.PARSE_ERROR),
        ('{"jsonrpc":"2.0","id":3}', 3, types.INVALID_REQUEST),
        ('{"jsonrpc":"1.0","id":"a","method":"ping"}', "a", types.INVALID_REQUEST),
        ('[{"jsonrpc":"2.0","id":3,"method":"ping"}]', None, types.INVALID_REQUEST),
        ("42", None, types.INVALID_REQUEST),
        ('{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}', None, types.INVALID_REQUEST),
        ("\x00\x01", None, types.PARSE_ERROR),
    ],
)
async def test_a_malformed_line_is_answered_and_the_connection_goes_on(
    executor: FakeExecutor, line: str, identifier: int | str | None, code: int
) -> None:
    async with wired(executor) as wire:
        answer = await wire.ask(line)
        assert answer["id"] == identifier
        assert answer["error"]["code"] == code
        assert "pydantic" not in json.dumps(answer)
        assert (await wire.ask({"jsonrpc": "2.0", "id": 9, "method": "ping"}))["id"] == 9


async def test_a_malformed_first_line_does_not_settle_the_era(executor: FakeExecutor) -> None:
    async with wired(executor, handshake=False) as wire:
        assert (await wire.ask("{"))["error"]["code"] == types.PARSE_ERROR
        assert "result" in await wire.ask(tool_call("1", meta=MODERN_META))


async def test_lone_surrogates_in_code_are_a_tool_error(executor: FakeExecutor) -> None:
    async with wired(executor) as wire:
        answer = await wire.ask(tool_call("print('\ud800')"))
        assert answer["id"] == 7
        assert answer["result"]["isError"] is True
        assert "lone surrogate" in answer["result"]["content"][0]["text"]
    assert executor.requests == []


async def test_nan_and_ten_megabytes_are_tool_errors(executor: FakeExecutor) -> None:
    async with wired(executor) as wire:
        call = tool_call("1")
        call["params"]["arguments"]["timeout"] = float("nan")
        answer = await wire.ask(call)
        assert "timeout: input should be a finite number" in answer["result"]["content"][0]["text"]
        answer = await wire.ask(tool_call("#" * 10_000_000))
        assert answer["result"]["structuredContent"]["code"] == "limit_exceeded"


async def test_both_eras_share_one_session_for_the_life_of_the_process(executor: FakeExecutor) -> None:
    async with wired(executor, handshake=False) as wire:
        for identifier in (1, 2):
            assert "result" in await wire.ask(tool_call("1", identifier=identifier, meta=MODERN_META))
        assert executor.connections[0] is not None
        assert executor.connections[0] == executor.connections[1]
        assert executor.closed == []
    assert executor.closed == [executor.connections[0]]


@pytest.mark.parametrize("meta", [None, MODERN_META], ids=["legacy", "modern"])
async def test_a_cancelled_notification_stops_the_run_at_once(meta: dict[str, Any] | None) -> None:
    executor = FakeExecutor(script=forever)
    async with wired(executor, handshake=meta is None) as wire:
        await wire.send(tool_call("1", meta=meta))
        with anyio.fail_after(5):
            await executor.started.wait()
            params = {"requestId": 7, "reason": "no longer needed"}
            await wire.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
            await executor.cancelled.wait()


async def test_the_end_of_input_stops_the_run_and_closes_the_session() -> None:
    executor = FakeExecutor(script=forever)
    async with wired(executor) as wire:
        await wire.send(tool_call("1"))
        with anyio.fail_after(5):
            await executor.started.wait()
            wire.hang_up()
            await executor.cancelled.wait()
            await executor.close_seen.wait()
    assert executor.closed == [executor.connections[0]]


async def forever(request: RunRequest, on_event: OnEvent) -> RunResult:
    await anyio.sleep_forever()
    return OK


@pytest.mark.parametrize("era", ["legacy", "auto", "2026-07-28"])
async def test_a_real_client_and_a_child_that_prints_to_stdout(era: str) -> None:
    with anyio.fail_after(30):
        async with Client(CHILD, mode=era) as client:
            assert "sandbox" in {tool.name for tool in (await client.list_tools()).tools}
            result = await client.call_tool("code_execution", {"code": "print(42)"})
    assert not result.is_error
    assert result.structured_content["stdout"] == "42\n"
    assert result.structured_content["session"]["state"] == "kept"


@pytest.mark.parametrize(
    "stop", [signal.SIGTERM, signal.SIGINT, None], ids=["SIGTERM", "SIGINT", "end of input"]
)
def test_a_child_stops_promptly_with_its_session_closed(stop: signal.Signals | None) -> None:
    with subprocess.Popen(
        [CHILD.command, *CHILD.args],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(tool_call("1", meta=MODERN_META)) + "\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["result"]["isError"] is False
        if stop is None:
            child.stdin.close()
        else:
            child.send_signal(stop)
        assert child.wait(timeout=10) == 0
        assert child.stdout.read() == ""
        assert "closed connection" in child.stderr.read()
