"""A call that its caller gives up ends at once, and its run with it."""

from __future__ import annotations

import anyio

from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import Output, RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import OK, FakeExecutor, connect


async def forever(request: RunRequest, on_event: OnEvent) -> RunResult:
    on_event(Output("stdout", b"started\n"))
    await anyio.sleep_forever()
    return OK


async def test_a_cancelled_call_cancels_its_run_and_the_connection_goes_on(era: str) -> None:
    executor = FakeExecutor(script=forever)
    async with connect(build_server(executor, version="0"), era) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_tool, "code_execution", {"code": "1"})
                await executor.started.wait()
                tasks.cancel_scope.cancel()
            await executor.cancelled.wait()
            executor.script = FakeExecutor().script
            assert not (await client.call_tool("code_execution", {"code": "1"})).is_error


async def test_a_cancelled_call_with_live_output_cancels_its_run_too(era: str) -> None:
    executor = FakeExecutor(script=forever)

    async def seen(progress: float, total: float | None, message: str | None) -> None:
        tasks.cancel_scope.cancel()

    async with connect(build_server(executor, version="0"), era) as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                await client.call_tool("code_execution", {"code": "1"}, progress_callback=seen)
            await executor.cancelled.wait()


async def test_a_connection_that_breaks_cancels_its_runs_before_its_session_closes() -> None:
    executor = FakeExecutor(script=forever)
    server = build_server(executor, version="0")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, connect(server, "legacy") as client:
            tasks.start_soon(client.call_tool, "code_execution", {"code": "1"})
            await executor.started.wait()
            tasks.cancel_scope.cancel()
    assert executor.cancelled.is_set()
    assert executor.closed == [executor.connections[0]]
