"""How sessions end, how many there may be, and what is left of them."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import Busy, NotFound, SandboxLost
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.sessions import Sessions
from tests.execution.support import NODE, PYTHON, SIZING, managed, nothing_left, opened, run, start

pytestmark = pytest.mark.anyio


async def test_a_closed_connection_leaves_nothing(manager: Manager, engine: FakeEngine) -> None:
    await run(manager, "set x 42", on="c")
    await run(manager, "set x 42", "javascript", on="c")
    await run(manager, "set x 42", on="other")
    await manager.close_connection("c")
    await manager.close_connection("c")
    await manager.close_connection("unknown")
    await anyio.wait_all_tasks_blocked()
    assert engine.live == 1
    assert (await manager.health())["sessions"] == 1


async def test_closing_ends_a_run_that_is_going_on(manager: Manager, engine: FakeEngine) -> None:
    errors: list[Exception] = []

    async def call() -> None:
        try:
            await run(manager, "wait", on="c")
        except SandboxLost as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(2):
            await manager.close_connection("c")
            while not errors:
                await anyio.wait_all_tasks_blocked()
    health = await manager.health()
    assert (health["sandboxes"], health["sessions"], engine.live) == (0, 0, 0)


async def test_closing_while_calls_wait_leaves_no_session_that_nobody_can_close(
    manager: Manager, engine: FakeEngine
) -> None:
    errors: list[Exception] = []

    async def call(code: str) -> None:
        try:
            await run(manager, code, on="c")
        except (SandboxLost, NotFound) as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "wait")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(call, "out queued behind it")
        await anyio.wait_all_tasks_blocked()
        await manager.close_connection("c")
    await anyio.wait_all_tasks_blocked()
    assert {type(error) for error in errors} == {SandboxLost, NotFound}
    assert engine.live == 0
    assert (await manager.health())["sandboxes"] == 0


async def test_closing_while_a_sandbox_is_on_its_way_leaves_nothing(
    manager: Manager, engine: FakeEngine
) -> None:
    engine.gate = anyio.Event()
    errors: list[Exception] = []

    async def call() -> None:
        try:
            await run(manager, "out hi", on="c")
        except NotFound as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        await manager.close_connection("c")
        engine.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert len(errors) == 1
    assert engine.live == 0


# --- how many


async def test_beyond_the_cap_new_sessions_are_busy_and_others_go_on(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, sessions=1) as manager:
            await run(manager, "set x 42", on="first")
            with pytest.raises(Busy) as busy:
                await run(manager, "out hi", on="second")
            assert busy.value.retry_after > 0
            assert (await run(manager, "get x", on="first")).stdout.text == "42\n"
            assert (await run(manager, "out one-shot")).outcome == "ok"
            await manager.close_connection("first")
            assert (await run(manager, "out hi", on="second")).outcome == "ok"


async def test_first_calls_at_the_same_time_do_not_pass_the_cap(engine: FakeEngine) -> None:
    outcomes: list[str] = []

    async def call(manager: Manager, connection: str) -> None:
        try:
            outcomes.append((await run(manager, "out hi", on=connection)).outcome)
        except Busy:
            outcomes.append("busy")

    with anyio.fail_after(10):
        async with managed(engine, sessions=2) as manager:
            async with anyio.create_task_group() as tasks:
                for connection in "abcde":
                    tasks.start_soon(call, manager, connection)
            assert sorted(outcomes) == ["busy", "busy", "busy", "ok", "ok"]
            assert (await manager.health())["sessions"] == 2


async def test_an_expired_session_keeps_nobody_out(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, sessions=1, session_idle=0.0) as manager:
            await run(manager, "set x 42", on="gone")
            assert (await run(manager, "out hi", on="new")).outcome == "ok"


async def test_a_failed_first_call_takes_no_place(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, sessions=1, queue_wait=0.05) as manager:
            engine.gate = anyio.Event()
            with pytest.raises(Busy):
                await run(manager, "out hi", on="unlucky")
            engine.gate.set()
            assert (await run(manager, "out hi", on="lucky")).outcome == "ok"


async def test_connections_that_never_close_are_forgotten_once_they_have_nothing_to_be_told() -> None:
    sessions = Sessions(replace(SIZING, session_idle=0.0, session_ttl=0.0))
    for number in range(100):
        sessions.of("p", f"connection {number}", PYTHON)
    async with opened(await start(FakeEngine())) as sandbox:
        sessions.of("p", "one with a sandbox", PYTHON).adopt(sandbox)
        assert sessions.expire() == [sandbox]
    assert sessions.expire() == []
    assert sessions.held == 0


def test_one_connection_has_one_session_per_profile() -> None:
    sessions = Sessions(Sizing())
    assert sessions.of("p", "c", PYTHON) is sessions.of("p", "c", PYTHON)
    assert sessions.of("p", "c", PYTHON) is not sessions.of("p", "c", NODE)
    assert sessions.of("p", "c", PYTHON) is not sessions.of("p", "d", PYTHON)


async def test_a_call_that_comes_after_its_connection_has_ended_is_refused(engine: FakeEngine) -> None:
    async with managed(engine) as manager:
        await run(manager, "set x 1", on="c")
        await manager.close_connection("c")
        for on in ("c", "c"):
            with pytest.raises(NotFound, match="connection of this call has ended"):
                await run(manager, "get x", on=on)
        assert await nothing_left(manager, engine)
        assert manager.sessions.registry.held == 0
