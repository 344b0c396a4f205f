"""Files of sessions through the manager: in which sandbox, for whom, and beside what."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller
from sandbox_server.execution.file_models import ReadFile, WriteFile, Written
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Queued, RunEvent
from tests.execution.support import SIZING, ignore, managed, nothing_left, request, run

ON = Caller(connection="c")
NOWHERE = Caller()


async def test_on_a_connection_they_are_those_that_python_sees(manager: Manager, engine: FakeEngine) -> None:
    ran = await run(manager, "set x 1", on="c")
    answer = await manager.files(WriteFile("a", b"abc"), caller=ON)
    assert answer.result == Written(3)
    assert (answer.session.id, answer.session.state) == (ran.session.id, "kept")
    [container] = engine.host.containers.values()
    assert container.runner.files == {"a": b"abc"}
    assert (await run(manager, "get x", on="c")).stdout.text == "1\n"


async def test_they_do_not_wait_for_a_run(manager: Manager) -> None:
    await run(manager, "out ready", on="c")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: manager.run(request("wait"), caller=ON, on_event=ignore))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(2):
            assert (await manager.files(WriteFile("a", b"abc"), caller=ON)).result == Written(3)
        tasks.cancel_scope.cancel()


async def test_who_waits_for_a_sandbox_is_told_where_it_stands(engine: FakeEngine) -> None:
    told: dict[Caller, list[RunEvent]] = {Caller("bea", "c"): [], Caller("bea"): []}
    async with managed(engine, sandboxes=1, parallel_starts=1) as manager:
        engine.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(run, manager, "out hi", principal="ann"))
            await anyio.wait_all_tasks_blocked()
            for caller, events in told.items():
                write = WriteFile("a", b"abc")
                tasks.start_soon(partial(manager.files, write, caller=caller, on_event=events.append))
                await anyio.wait_all_tasks_blocked()
            assert list(told.values()) == [[Queued(2)], [Queued(3)]]
            tasks.cancel_scope.cancel()


async def test_calls_before_it_in_its_session_are_told_too(engine: FakeEngine) -> None:
    told: list[RunEvent] = []
    async with managed(engine, sandboxes=1) as manager:
        engine.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                write = WriteFile("a", b"abc")
                tasks.start_soon(partial(manager.files, write, caller=ON, on_event=told.append))
                await anyio.wait_all_tasks_blocked()
            engine.gate.set()
    assert Queued(1, turn=True) in told


async def test_without_a_connection_they_make_a_session_and_tell_its_handle(manager: Manager) -> None:
    first = await manager.files(WriteFile("a", b"abc"), caller=NOWHERE)
    assert first.session.id is not None
    again = await manager.files(WriteFile("b", b"abc"), caller=NOWHERE, session=first.session.id)
    assert again.session.id == first.session.id
    other = await manager.files(WriteFile("a", b"abc"), caller=NOWHERE)
    assert other.session.id != first.session.id
    ran = await manager.run(request("out hi"), caller=NOWHERE, on_event=ignore, session=first.session.id)
    assert ran.session.id == first.session.id


async def test_a_session_that_a_failed_call_has_made_ends_with_it(
    manager: Manager, engine: FakeEngine
) -> None:
    """Nobody was told its handle: a few mistakes would take all the sessions that a caller may have."""
    for _ in range(SIZING.sessions + 1):
        with pytest.raises(NotFound):
            await manager.files(ReadFile("not-there"), caller=NOWHERE)
    assert manager.sessions.list(caller=NOWHERE) == ()
    kept = await manager.files(WriteFile("a", b"abc"), caller=NOWHERE)
    with pytest.raises(NotFound):
        await manager.files(ReadFile("not-there"), caller=NOWHERE, session=kept.session.id)
    assert [view.info.id for view in manager.sessions.list(caller=NOWHERE)] == [kept.session.id]


async def test_a_foreign_handle_is_one_that_never_existed(manager: Manager) -> None:
    made = await manager.files(WriteFile("a", b"abc"), caller=Caller("alice"))
    errors = []
    for handle in (made.session.id, "0" * 32):
        with pytest.raises(NotFound) as caught:
            await manager.files(WriteFile("a", b"evil"), caller=Caller("mallory"), session=handle)
        errors.append((caught.value.message, caught.value.hint))
    assert errors[0] == errors[1]


async def test_a_sandbox_that_has_died_is_told_once(manager: Manager, engine: FakeEngine) -> None:
    await manager.files(WriteFile("a", b"abc"), caller=ON)
    [container] = engine.host.containers.values()
    await container.destroy()
    await anyio.wait_all_tasks_blocked()
    states = [(await manager.files(WriteFile("a", b"abc"), caller=ON)).session.state for _ in range(2)]
    assert states == ["lost", "kept"]


async def test_closing_the_connection_leaves_nothing(manager: Manager, engine: FakeEngine) -> None:
    await manager.files(WriteFile("a", b"abc"), caller=ON)
    await manager.close_connection("c")
    assert await nothing_left(manager, engine)
