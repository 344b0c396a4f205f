"""Calls of a server that stops."""

from __future__ import annotations

import anyio
import pytest

from sandbox_server.errors import Busy, SandboxLost
from sandbox_server.protocol.calls import Calls


async def test_a_call_ended_by_a_stop_says_that_it_may_have_run() -> None:
    calls = Calls()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(SandboxLost, match="stopping"):
                    await calls.run(anyio.sleep_forever)

            tasks.start_soon(call)
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            calls.stop()


async def test_a_call_after_the_stop_may_be_retried() -> None:
    calls = Calls()
    calls.stop()
    with pytest.raises(Busy) as refused:
        await calls.run(anyio.sleep_forever)
    assert refused.value.retry_safe


async def test_a_callers_own_cancellation_is_not_mistaken_for_a_stop() -> None:
    calls = Calls()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await calls.run(anyio.sleep_forever)
    assert scope.cancelled_caught


async def test_results_and_errors_pass_through() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> int:
        raise ValueError("ours")

    assert await Calls().run(answer) == 42
    with pytest.raises(ValueError, match="ours"):
        await Calls().run(fail)
