"""Leaving the manager, starting again, and its books whatever callers do."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server.engines.base import Owner
from sandbox_server.engines.fake import FakeEngine, FakeHost
from sandbox_server.errors import (
    EngineUnavailable,
    SandboxServerError,
)
from sandbox_server.execution.manager import Manager
from tests.execution.support import GRANTS, managed, run

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("on", [None, "c"])
async def test_leaving_destroys_everything_while_calls_run_and_wait(
    engine: FakeEngine, on: str | None
) -> None:
    endings: list[str] = []

    async def call(manager: Manager, code: str) -> None:
        try:
            endings.append((await run(manager, code, on=on)).outcome)
        except SandboxServerError as error:
            endings.append(error.code)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks, managed(engine, sandboxes=2, warm=1) as manager:
            for code in ("wait", "hang", "wait", "out hi"):
                tasks.start_soon(call, manager, code)
            await anyio.wait_all_tasks_blocked()
    assert len(endings) == 4
    assert set(endings) <= {"sandbox_lost", "engine_unavailable"}
    assert engine.live == 0
    assert not engine.host.containers


async def test_leaving_while_sandboxes_are_started_leaves_nothing(engine: FakeEngine) -> None:
    engine.gate = anyio.Event()
    with anyio.fail_after(5):
        async with managed(engine, warm=2):
            assert engine.waiting == 2
    assert engine.waiting == 0
    assert engine.live == 0


async def test_leaving_with_a_mute_runner_in_the_handshake_takes_no_time(engine: FakeEngine) -> None:
    engine.mute = True
    with anyio.fail_after(2):
        async with managed(engine, warm=1):
            assert engine.live > 0
    assert engine.live == 0


async def test_leaving_while_the_engine_is_down_ends_all_the_same(engine: FakeEngine) -> None:
    with anyio.fail_after(5):
        async with managed(engine, warm=1):
            engine.down = True
    assert engine.live > 0


async def test_after_leaving_calls_are_refused_at_once(engine: FakeEngine) -> None:
    with anyio.fail_after(5):
        async with managed(engine) as manager:
            await run(manager, "out hi", on="c")
        for on in (None, "c", "d"):
            with pytest.raises(EngineUnavailable):
                await run(manager, "out hi", on=on)
        await manager.close_connection("c")
        assert engine.live == 0


async def test_the_next_start_sweeps_what_a_killed_server_left() -> None:
    host = FakeHost()
    before = FakeEngine(Owner("ours", "first"), host=host)
    left = await before.start(GRANTS["python"].profile, deadline=2e9)
    with anyio.fail_after(5):
        async with managed(FakeEngine(Owner("ours", "second"), host=host)):
            assert left.destroyed


async def test_the_sweep_is_made_up_for_once_the_engine_is_back() -> None:
    host = FakeHost()
    left = await FakeEngine(Owner("ours", "first"), host=host).start(GRANTS["python"].profile, deadline=2e9)
    engine = FakeEngine(Owner("ours", "second"), host=host)
    engine.down = True
    with anyio.fail_after(8):
        async with managed(engine):
            assert not left.destroyed
            engine.down = False
            while not left.destroyed:
                await anyio.wait_all_tasks_blocked()


# --- anything at all

CODES = st.sampled_from(
    [
        "out hi",
        "exit 1",
        "wait",
        "set x 1",
        "get x",
        "crowd",
        "garbage",
        "die",
        "die-oom",
        "flood 300000",
        "cat",
    ]
)
ACTIONS = st.one_of(
    st.tuples(st.just("call"), CODES, st.sampled_from([None, "c", "d"]), st.none() | st.integers(0, 40)),
    st.tuples(st.just("close"), st.sampled_from(["c", "d"])),
    st.tuples(st.just("fail")),
    st.tuples(st.just("steps"), st.integers(1, 30)),
)


async def play(actions: list[tuple[Any, ...]]) -> None:
    engine = FakeEngine()
    codes: set[str] = set()

    async def call(code: str, on: str | None, cancelled: int | None) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as both:
                if cancelled is not None:
                    both.start_soon(cancel, cancelled, scope)
                try:
                    await run(manager, code, "python", on=on, wall=0.05, stdin=b"x" * 1000)
                except SandboxServerError as error:
                    codes.add(error.code)
                both.cancel_scope.cancel()

    async def cancel(after: int, scope: anyio.CancelScope) -> None:
        for _ in range(after):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    with anyio.fail_after(30):
        async with managed(engine, sandboxes=3, sessions=2, warm=1) as manager:
            async with anyio.create_task_group() as tasks:
                for action in actions:
                    match action:
                        case ("call", code, on, cancelled):
                            tasks.start_soon(call, code, on, cancelled)
                        case ("close", on):
                            await manager.close_connection(on)
                        case ("fail",):
                            engine.fail_next(EngineUnavailable("a hiccup", hint="wait"))
                        case ("steps", number):
                            for _ in range(number):
                                await anyio.lowlevel.checkpoint()
                    assert engine.live <= 3
            for connection in ("c", "d"):
                await manager.close_connection(connection)
            await anyio.wait_all_tasks_blocked()
            health = await manager.health()
            assert (health["waiting"], health["sessions"]) == (0, 0)
            assert health["sandboxes"] == health["warm"] == engine.live
            engine._failures.clear()
            assert (await run(manager, "out still here")).outcome == "ok"
    assert engine.live == 0
    assert codes <= {"sandbox_lost", "engine_unavailable", "busy", "not_found"}


@settings(max_examples=40)
@given(st.lists(ACTIONS, max_size=14))
def test_whatever_callers_do_the_books_are_right_and_the_manager_lives(
    actions: list[tuple[Any, ...]],
) -> None:
    anyio.run(play, actions)
