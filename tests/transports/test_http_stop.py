"""Stopping an HTTP server while clients are there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import anyio
import httpx2
import mcp_types as types
from mcp import Client

from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import RunRequest, RunResult
from tests.protocol.fake_executor import OK, FakeExecutor
from tests.transports.http_server import (
    MODERN_CALL,
    SETTINGS,
    forever,
    modern_call,
    open_session,
    served,
)


async def test_stopping_ends_runs_with_an_answer_and_closes_sessions() -> None:
    executor = FakeExecutor(script=forever)
    stopping = anyio.Event()
    answers: list[types.CallToolResult] = []

    async def call(url: str) -> None:
        async with Client(f"{url}/mcp", mode="legacy") as client:
            answers.append(await client.call_tool("code_execution", {"code": "1"}))
            stopping.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            async with served(executor) as url:
                tasks.start_soon(call, url)
                await executor.started.wait()
            assert executor.cancelled.is_set()
            assert executor.closed == [executor.connections[0]]
            await stopping.wait()
    assert answers[0].is_error
    assert answers[0].structured_content["code"] == "sandbox_lost"
    assert "server is stopping" in answers[0].structured_content["message"]


async def test_stopping_answers_a_stateless_call_too() -> None:
    executor = FakeExecutor(script=forever)
    answers: list[httpx2.Response] = []

    async def call(url: str) -> None:
        async with httpx2.AsyncClient() as http:
            body = modern_call({"code": "1"})
            answers.append(await http.post(f"{url}/mcp", json=body, headers=MODERN_CALL, timeout=30))

    async with anyio.create_task_group() as tasks:
        async with served(executor) as url:
            tasks.start_soon(call, url)
            await executor.started.wait()
        assert executor.cancelled.is_set()
    assert answers[0].json()["result"]["structuredContent"]["code"] == "sandbox_lost"


async def test_stopping_lets_a_short_run_finish() -> None:
    released = anyio.Event()

    async def short(request: RunRequest, on_event: OnEvent) -> RunResult:
        await released.wait()
        return OK

    executor = FakeExecutor(script=short)
    answers: list[httpx2.Response] = []

    async def call(url: str) -> None:
        async with httpx2.AsyncClient() as http:
            body = modern_call({"code": "1"})
            answers.append(await http.post(f"{url}/mcp", json=body, headers=MODERN_CALL, timeout=30))

    async def release_once_refused(url: str) -> None:
        async with httpx2.AsyncClient() as http:
            with suppress(httpx2.TransportError):
                while True:
                    await http.get(f"{url}/healthz", headers={"Connection": "close"})
        released.set()

    patient = replace(SETTINGS, shutdown_grace=10)
    async with anyio.create_task_group() as tasks, served(executor, patient) as url:
        tasks.start_soon(call, url)
        await executor.started.wait()
        tasks.start_soon(release_once_refused, url)
    assert answers[0].json()["result"]["structuredContent"]["outcome"] == "ok"
    assert not executor.cancelled.is_set()


async def test_an_open_notification_stream_does_not_hold_up_a_stop(executor: FakeExecutor) -> None:
    async with httpx2.AsyncClient() as http:
        opened = anyio.Event()

        async def listen(url: str, headers: dict[str, str]) -> None:
            headers = {**headers, "Accept": "text/event-stream"}
            async with http.stream("GET", f"{url}/mcp", headers=headers, timeout=30) as stream:
                opened.set()
                async for _ in stream.aiter_lines():
                    continue

        async with anyio.create_task_group() as tasks:
            async with served(executor, replace(SETTINGS, shutdown_grace=10)) as url:
                tasks.start_soon(listen, url, await open_session(http, url))
                await opened.wait()
                started = anyio.current_time()
            assert anyio.current_time() - started < 3
