"""Resets of sessions: what they keep, what they wait for, and when they fail."""

from __future__ import annotations

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import (
    EngineUnavailable,
    NotFound,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import (
    InputFile,
)
from sandbox_server.execution.session import Session
from tests.execution.handles import ALICE, cell, create, handle_of, refusal
from tests.execution.support import PYTHON, ignore, managed, nothing_left, opened, run, start, told

pytestmark = pytest.mark.anyio


async def test_a_fresh_interpreter_keeps_the_files_and_the_time(manager: Manager, engine: FakeEngine) -> None:
    session = await create(manager, ttl=60.0)
    await cell(manager, session, "set x 42")
    engine.started[0].runner.files["a"] = b"1"
    view = await manager.sessions.reset(handle_of(session), "interpreter", caller=ALICE, on_event=ignore)
    assert (view.info.state, view.info.id) == ("reset", session.info.id)
    assert "files are kept" in view.info.note
    assert engine.started[0].runner.memory is None
    assert told(await cell(manager, session, "get x")) == ("error", "kept")
    assert engine.started[0].runner.files == {"a": b"1"}
    assert len(engine.started) == 1


async def test_everything_new_is_a_new_sandbox_under_the_same_handle(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager, ttl=60.0)
    await cell(manager, session, "set x 42")
    view = await manager.sessions.reset(handle_of(session), "everything", caller=ALICE, on_event=ignore)
    assert (view.info.state, view.info.id) == ("lost", session.info.id)
    assert view.info.expires_in is not None
    assert view.info.expires_in <= 60.0
    assert told(await cell(manager, session, "get x")) == ("error", "kept")
    await anyio.wait_all_tasks_blocked()
    assert (len(engine.started), engine.live) == (2, 1)


async def test_everything_new_works_where_there_is_no_place_for_two(engine: FakeEngine) -> None:
    async with managed(engine, sandboxes=1, sessions=1) as manager:
        session = await create(manager)
        await manager.sessions.reset(handle_of(session), "everything", caller=ALICE, on_event=ignore)
        assert (await cell(manager, session, "out hi")).outcome == "ok"
        assert engine.live == 1


async def test_a_reset_waits_for_the_call_before_it(manager: Manager) -> None:
    session = await create(manager)
    results: list[str] = []

    async def call() -> None:
        results.append((await cell(manager, session, "wait", wall=0.1)).outcome)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        await manager.sessions.reset(handle_of(session), "interpreter", caller=ALICE, on_event=ignore)
        assert results == ["timeout"]


async def test_a_reset_that_can_not_prove_that_all_is_dead_costs_the_sandbox(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager)
    engine.started[0].runner.deaf_to_reset = True
    with pytest.raises(SandboxLost):
        await manager.sessions.reset(handle_of(session), "interpreter", caller=ALICE, on_event=ignore)
    with pytest.raises(NotFound, match="lost while it was reset"):
        await cell(manager, session, "out hi")
    assert await nothing_left(manager, engine)


async def test_a_reset_that_gets_no_new_sandbox_ends_the_session_and_says_so(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager)
    engine.fail_next(EngineUnavailable("a hiccup"))
    with pytest.raises(EngineUnavailable):
        await manager.sessions.reset(handle_of(session), "everything", caller=ALICE, on_event=ignore)
    with pytest.raises(NotFound, match="got no new sandbox"):
        await cell(manager, session, "out hi")
    assert await nothing_left(manager, engine)


async def test_closing_while_a_reset_waits_for_its_sandbox_leaves_nothing(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager)
    engine.gate = anyio.Event()
    errors: list[SandboxServerError] = []

    async def reset() -> None:
        errors.append(
            await refusal(
                lambda: manager.sessions.reset(
                    handle_of(session), "everything", caller=ALICE, on_event=ignore
                )
            )
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reset)
        await anyio.wait_all_tasks_blocked()
        manager.sessions.close(handle_of(session), caller=ALICE)
        engine.gate.set()
    assert "closed" in errors[0].message
    assert await nothing_left(manager, engine)


async def test_a_reset_that_fails_is_told_by_the_next_call_of_a_connections_own_session(
    manager: Manager, engine: FakeEngine
) -> None:
    own = await run(manager, "set x 42", principal="alice", on="c")
    assert own.session.id is not None
    engine.started[0].runner.deaf_to_reset = True
    with pytest.raises(SandboxLost):
        await manager.sessions.reset(own.session.id, "interpreter", caller=ALICE, on_event=ignore)
    after = await run(manager, "get x", principal="alice", on="c")
    assert told(after) == ("error", "lost")
    assert "reset" in after.session.note


async def test_a_connections_own_session_can_be_reset_and_closed_by_its_handle(
    manager: Manager, engine: FakeEngine
) -> None:
    own = await run(manager, "set x 42", principal="alice", on="c")
    assert own.session.id is not None
    view = await manager.sessions.reset(own.session.id, "interpreter", caller=ALICE, on_event=ignore)
    assert (view.info.state, view.explicit) == ("reset", False)
    assert told(await run(manager, "get x", principal="alice", on="c")) == ("error", "kept")
    manager.sessions.close(own.session.id, caller=ALICE)
    fresh = await run(manager, "out hi", principal="alice", on="c")
    assert told(fresh) == ("ok", "kept")
    assert fresh.session.id != own.session.id
    with pytest.raises(NotFound, match="closed"):
        manager.sessions.info(own.session.id, caller=ALICE)


async def test_who_gets_hold_of_a_connection_does_not_get_its_owners_session(manager: Manager) -> None:
    await run(manager, "set x 42", principal="alice", on="c")
    assert (await run(manager, "get x", principal="bob", on="c")).outcome == "error"


async def test_extending_a_session_that_runs_does_not_end_it(engine: FakeEngine) -> None:
    async with managed(engine, session_idle=1e-9) as manager, anyio.create_task_group() as tasks:
        own = Session(PYTHON, "alice", idle=1e-9, ttl=60.0, explicit=True)
        manager.sessions.registry.add(own)
        container = await start(engine)
        async with opened(container) as sandbox:
            own.adopt(sandbox)
            async with own.lock.taken():
                view = manager.sessions.extend(own.id, 30.0, caller=ALICE)
                assert (view.info.state, view.running) == ("kept", True)
        tasks.cancel_scope.cancel()


async def test_closing_while_files_are_put_is_told_as_lost(manager: Manager, engine: FakeEngine) -> None:
    session = await create(manager)
    engine.started[0].runner.stalled = True
    errors: list[SandboxServerError] = []

    async def call() -> None:
        files = (InputFile("a", b"1"), InputFile("b", b"2"))
        errors.append(await refusal(lambda: cell(manager, session, "out hi", files=files)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        manager.sessions.close(handle_of(session), caller=ALICE)
    assert [type(error) for error in errors] == [SandboxLost]
