"""How a session that a caller made ends, and who is told."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import (
    NotFound,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Rights
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Packages, SessionRequest
from sandbox_server.execution.sessions import MOST_ENDED_EACH
from tests.execution.handles import ALICE, BOB, cell, create, handle_of, refusal
from tests.execution.support import GRANTS, PYTHON, ignore, managed, nothing_left, run, told

pytestmark = pytest.mark.anyio


async def test_a_closed_session_says_so_and_leaves_nothing(manager: Manager, engine: FakeEngine) -> None:
    session = await create(manager)
    closed = manager.sessions.close(handle_of(session), caller=ALICE)
    assert (closed.info.state, closed.info.expires_in) == ("lost", None)
    over = await refusal(lambda: cell(manager, session, "out hi"))
    assert "closed" in over.message
    assert "over" in (await refusal(lambda: cell(manager, session, "out hi"))).message
    assert await nothing_left(manager, engine)


async def test_closing_ends_the_run_that_goes_on_and_those_that_wait(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager)
    errors: list[SandboxServerError] = []

    async def call() -> None:
        errors.append(await refusal(lambda: cell(manager, session, "wait")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert manager.sessions.info(handle_of(session), caller=ALICE).running
        manager.sessions.close(handle_of(session), caller=ALICE)
    assert [type(error) for error in errors] == [SandboxLost, NotFound]
    assert "closed" in errors[1].message
    assert await nothing_left(manager, engine)


async def test_a_run_that_costs_the_sandbox_says_lost_and_the_handle_is_over(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager)
    lost = await cell(manager, session, "die-oom")
    assert told(lost) == ("out_of_memory", "lost")
    assert lost.session.expires_in is None
    assert "gone" in (await refusal(lambda: cell(manager, session, "get x"))).message
    assert await nothing_left(manager, engine)


async def test_a_sandbox_that_died_between_calls_is_told(manager: Manager, engine: FakeEngine) -> None:
    session = await create(manager)
    engine.started[0].runner.death = Death(137, True, "gone")
    engine.started[0].stream.wake()
    await anyio.wait_all_tasks_blocked()
    over = await refusal(lambda: cell(manager, session, "get x"))
    assert isinstance(over, NotFound)
    assert "died" in over.message
    assert manager.sessions.list(caller=ALICE) == ()


async def test_a_cancelled_call_that_cost_the_sandbox_is_told(manager: Manager, engine: FakeEngine) -> None:
    session = await create(manager)
    with anyio.move_on_after(0.05):
        await cell(manager, session, "hang")
    over = await refusal(lambda: cell(manager, session, "get x"))
    assert "cancelled" in over.message
    assert await nothing_left(manager, engine)


async def test_what_is_remembered_of_ended_sessions_is_bounded(manager: Manager) -> None:
    theirs = await create(manager, BOB)
    manager.sessions.close(handle_of(theirs), caller=BOB)
    first = await create(manager)
    manager.sessions.close(handle_of(first), caller=ALICE)
    for _ in range(MOST_ENDED_EACH):
        manager.sessions.close(handle_of(await create(manager)), caller=ALICE)
    forgotten = await refusal(lambda: cell(manager, first, "out hi"))
    assert forgotten.message == (await refusal(lambda: run(manager, "out", session="never"))).message
    with pytest.raises(NotFound, match="closed"):
        await run(manager, "out hi", principal="bob", session=handle_of(theirs))


async def test_a_session_whose_right_ends_while_it_is_made_takes_its_sandbox_along(
    engine: FakeEngine,
) -> None:
    engine.gate = anyio.Event()
    refused: list[SandboxServerError] = []
    async with managed(engine) as manager, anyio.create_task_group() as tasks:

        async def make() -> None:
            refused.append(await refusal(lambda: create(manager)))

        tasks.start_soon(make)
        await anyio.wait_all_tasks_blocked()
        manager.regrant((), PYTHON.revision, lambda who: Rights(), longest_run=1)
        engine.gate.set()
        await anyio.wait_all_tasks_blocked()
        assert [type(error) for error in refused] == [NotFound]
        assert manager.sessions.list(caller=ALICE) == ()
        assert await nothing_left(manager, engine)


async def test_a_session_that_gets_its_packages_is_at_work_until_it_has_them(manager: Manager) -> None:
    grant = replace(GRANTS["python"], egress="anything", packages=("*",))
    caller = Caller("ann", rights=Rights({"python": grant}))
    arrived, states = anyio.Event(), list[str]()

    async def install(*_: object) -> Packages:
        await arrived.wait()
        return Packages((), True, 0.0, 0)

    async def make() -> None:
        asked = SessionRequest("python", packages=("six",))
        await manager.sessions.create(asked, caller=caller, on_event=ignore)

    async def restart(handle: str) -> None:
        view = await manager.sessions.reset(handle, "interpreter", caller=caller, on_event=ignore)
        states.append(view.info.state)

    manager.sessions.install = install
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(make)
        await anyio.wait_all_tasks_blocked()
        [seen] = manager.sessions.list(caller=caller)
        tasks.start_soon(restart, handle_of(seen))
        await anyio.wait_all_tasks_blocked()
        assert (seen.running, states) == (True, [])
        arrived.set()
    assert states == ["reset"]
