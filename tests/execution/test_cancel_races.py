"""A call that is cancelled at any moment of its life ends in one way only, and leaves nothing."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.execution.models import InputFile, RunResult
from sandbox_server.execution.slots import Kind
from sandbox_server.execution.transfers import Transfer
from tests.execution.support import managed, nothing_left, opened, run, start

pytestmark = pytest.mark.anyio

MOMENTS = range(0, 60)
CALLS = {
    "one-shot": {},
    "a session's": {"on": "c"},
    "with files": {"files": (InputFile("a", b"x"),)},
    "of a sandbox that is used again": {"reuse": True},
}


async def cancelled_after(moments: int, engine: FakeEngine, how: str) -> list[object]:
    """The endings of one call that is cancelled after so many turns of the event loop."""
    endings: list[object] = []

    async def call(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                endings.append(await run(manager, "out hi", **CALLS[how]))
            except anyio.get_cancelled_exc_class():
                endings.append("cancelled")
                raise

    async with managed(engine, reuse=True, warm=1) as manager:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, scope)
            for _ in range(moments):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
        await manager.close_connection("c")
        await anyio.wait_all_tasks_blocked()
        health = await manager.health()
        assert health["sandboxes"] == health["warm"] + health["spare"] == engine.live
        assert (health["waiting"], health["sessions"]) == (0, 0)
        assert len(manager._desk._underway) == 0
    return endings


@pytest.mark.parametrize("how", CALLS)
async def test_whenever_a_call_is_cancelled_it_has_one_end_and_leaves_nothing(how: str) -> None:
    seen: set[str] = set()
    for moments in MOMENTS:
        engine = FakeEngine()
        with anyio.fail_after(10):
            (ending,) = await cancelled_after(moments, engine, how)
        assert engine.live == 0
        assert sum(container.runner.ran for container in engine.started) <= 1
        if isinstance(ending, RunResult):
            assert ending.outcome == "ok"
        seen.add("ended" if isinstance(ending, RunResult) else "cancelled")
    assert seen == {"ended", "cancelled"}, "the sweep has missed the end or the beginning"


async def test_a_result_that_is_there_is_not_lost_to_a_cancellation_that_comes_later(
    engine: FakeEngine,
) -> None:
    async with managed(engine) as manager:
        with anyio.CancelScope() as scope:
            result = await run(manager, "out hi")
            scope.cancel()
        assert result.outcome == "ok"
        assert await nothing_left(manager, engine)


@pytest.mark.parametrize("kind", ["file", "quick", "wait"])
@pytest.mark.parametrize("busy", [False, True], ids=["free", "taken"])
async def test_an_operation_that_is_cancelled_before_it_was_sent_costs_the_sandbox_nothing(
    kind: Kind, busy: bool
) -> None:
    async with opened(await start(FakeEngine())) as sandbox:
        for moments in range(12):
            if busy:
                await sandbox._sending.acquire()
            async with anyio.create_task_group() as tasks:
                transfer = Transfer({"op": "ping"})
                tasks.start_soon(partial(sandbox.transfer, transfer, 5, kind=kind))
                for _ in range(moments):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
                if busy:
                    sandbox._sending.release()
            assert sandbox.alive, moments
        assert await sandbox.transfer(Transfer({"op": "ping"}), 5, kind=kind) == {"ok": True}


async def test_an_operation_that_could_not_be_sent_in_time_is_only_late() -> None:
    async with opened(await start(FakeEngine())) as sandbox:
        results = []

        async def call() -> None:
            results.append(await sandbox.transfer(Transfer({"op": "ping"}), 0.05))

        async with sandbox._sending, anyio.create_task_group() as tasks:
            tasks.start_soon(call)
        assert (results, sandbox.alive) == ([None], True)
