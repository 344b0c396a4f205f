"""Sessions that callers make: whose they are, what they share, and how many there may be."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import (
    Busy,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    PolicyDenied,
)
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Rights
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunRequest
from sandbox_server.execution.process_models import StartProcess, WriteProcess
from tests.execution.handles import ALICE, BOB, cell, create, handle_of, refusal
from tests.execution.support import GRANTS, ignore, managed, nothing_left, run, told

pytestmark = pytest.mark.anyio


async def test_a_session_keeps_state_whatever_connection_its_calls_come_on(
    manager: Manager, engine: FakeEngine
) -> None:
    session = await create(manager)
    first = await cell(manager, session, "set x 42", on="one")
    second = await cell(manager, session, "get x", on="two")
    third = await cell(manager, session, "get x")
    assert [told(each) for each in (first, second, third)] == [("ok", "kept")] * 3
    assert third.stdout.text == "42\n"
    assert third.session.id == session.info.id
    assert len(engine.started) == 1
    await manager.close_connection("one")
    assert (await cell(manager, session, "get x")).stdout.text == "42\n"


async def test_handles_are_long_random_and_never_the_same(manager: Manager) -> None:
    handles = {handle_of(await create(manager)) for _ in range(3)}
    assert len(handles) == 3
    assert all(len(bytes.fromhex(handle)) == 16 for handle in handles)


async def test_a_session_is_apart_from_its_callers_connection(manager: Manager) -> None:
    session = await create(manager, Caller("alice", "c"))
    await cell(manager, session, "set x 42", on="c")
    assert (await run(manager, "get x", principal="alice", on="c")).outcome == "error"


async def test_a_language_of_another_image_does_not_run_and_bash_always_does(manager: Manager) -> None:
    session = await create(manager, language="javascript")
    assert (await cell(manager, session, "out hi", language="javascript")).outcome == "ok"
    assert (await cell(manager, session, "out hi", language="bash")).outcome == "ok"
    wrong = await refusal(lambda: cell(manager, session, "out hi", language="python"))
    assert isinstance(wrong, InvalidRequest)
    assert "javascript, bash" in wrong.message


async def test_calls_into_one_session_come_in_order_and_hold_up_no_other(manager: Manager) -> None:
    slow, other = await create(manager), await create(manager)
    order: list[str] = []

    async def call(name: str, code: str) -> None:
        await cell(manager, slow, code, wall=0.1)
        order.append(name)

    async with anyio.create_task_group() as tasks:
        for name, code in (("first", "wait"), ("second", "set x 2"), ("third", "get x")):
            tasks.start_soon(call, name, code)
            await anyio.lowlevel.checkpoint()
        assert (await cell(manager, other, "out hi")).timings.queue < 0.05
        assert order == []
    assert order == ["first", "second", "third"]


@pytest.mark.parametrize("operation", ["run", "info", "reset", "extend", "close"])
async def test_a_foreign_handle_answers_exactly_as_one_that_never_was(
    manager: Manager, operation: str
) -> None:
    session = await create(manager, ALICE)
    closed = await create(manager, ALICE)
    manager.sessions.close(handle_of(closed), caller=ALICE)

    async def attempt(handle: str) -> None:
        match operation:
            case "run":
                await run(manager, "out hi", principal="bob", session=handle)
            case "reset":
                await manager.sessions.reset(handle, "everything", caller=BOB, on_event=ignore)
            case "extend":
                manager.sessions.extend(handle, None, caller=BOB)
            case _:
                getattr(manager.sessions, operation)(handle, caller=BOB)

    answers = [
        await refusal(lambda handle=handle: attempt(handle))  # type: ignore[misc]
        for handle in (handle_of(session), handle_of(closed), "0" * 32, "", "\u202e nonsense")
    ]
    assert {type(answer) for answer in answers} == {NotFound}
    assert len({(answer.message, answer.hint) for answer in answers}) == 1
    assert (await cell(manager, session, "out hi")).outcome == "ok"


async def test_a_foreign_connections_own_session_is_out_of_reach_too(manager: Manager) -> None:
    own = await run(manager, "set x 42", principal="alice", on="c")
    with pytest.raises(NotFound):
        await run(manager, "get x", principal="bob", session=own.session.id)
    again = await run(manager, "get x", principal="alice", session=own.session.id)
    assert again.stdout.text == "42\n"


async def test_a_list_holds_ones_own_and_nobody_elses(manager: Manager) -> None:
    mine = await create(manager, ALICE)
    await create(manager, BOB)
    await run(manager, "out hi", principal="alice", on="c")
    await run(manager, "out hi", principal="alice", on="d")
    listed = manager.sessions.list(caller=Caller("alice", "c"))
    assert [view.explicit for view in listed] == [True, False]
    assert listed[0].info.id == mine.info.id
    assert [view.explicit for view in manager.sessions.list(caller=ALICE)] == [True]


async def test_one_principal_can_not_take_the_sessions_of_all(engine: FakeEngine) -> None:
    async with managed(engine, sessions=3, sessions_per_principal=2) as manager:
        first = await create(manager)
        await create(manager)
        with pytest.raises(Busy, match="2 sessions are yours"):
            await create(manager)
        with pytest.raises(Busy, match="2 sessions are yours"):
            await run(manager, "out hi", principal="alice", on="c")
        await create(manager, BOB)
        with pytest.raises(Busy, match="all 3 sessions"):
            await create(manager, Caller("carol"))
        manager.sessions.close(handle_of(first), caller=ALICE)
        assert (await create(manager)).info.state == "kept"


async def test_the_session_of_a_client_that_went_away_gives_its_place_to_the_next_one(
    engine: FakeEngine,
) -> None:
    async with managed(engine, sessions=2, sessions_per_principal=2, session_hold=0.0) as manager:
        await run(manager, "out hi", principal="alice", on="gone")
        await run(manager, "out hi", principal="bob", on="there")
        assert (await run(manager, "out hi", principal="carol", on="new")).session.state == "kept"
        back = await run(manager, "out hi", principal="alice", on="gone")
        assert (back.session.state, "another caller needed its place" in back.session.note) == ("lost", True)


async def test_a_session_that_was_promised_or_used_a_moment_ago_gives_way_to_nobody(
    engine: FakeEngine,
) -> None:
    async with managed(engine, sessions=1, sessions_per_principal=1, session_hold=0.0) as manager:
        await create(manager)
        with pytest.raises(Busy, match="all 1 sessions"):
            await run(manager, "out hi", principal="bob", on="b")
    async with managed(engine, sessions=1, sessions_per_principal=1, session_hold=60.0) as manager:
        await run(manager, "out hi", principal="alice", on="a")
        with pytest.raises(Busy, match="all 1 sessions"):
            await run(manager, "out hi", principal="bob", on="b")


async def test_a_session_that_could_not_be_made_takes_no_place(manager: Manager, engine: FakeEngine) -> None:
    engine.fail_next(EngineUnavailable("a hiccup"))
    with pytest.raises(EngineUnavailable):
        await create(manager)
    assert await nothing_left(manager, engine)
    assert manager.sessions.registry.held == 0


LESS = {
    "the language is gone, and bash runs in every image": Rights({"bash": GRANTS["bash"]}),
    "nothing is granted": Rights({}),
    "its memory is less": Rights(
        {
            "python": replace(GRANTS["python"], profile=Profile("python", SandboxLimits(memory=64 * MIB))),
            "bash": GRANTS["bash"],
        }
    ),
}


@pytest.mark.parametrize("rights", LESS.values(), ids=LESS)
async def test_a_caller_with_fewer_rights_runs_nothing_in_a_session_that_it_could_not_have(
    manager: Manager, engine: FakeEngine, rights: Rights
) -> None:
    """Its principal has made it with another token. It can still look at it, and end it."""
    session = handle_of(await create(manager))
    await run(manager, "set x 1", principal="alice", session=session)
    lesser = replace(ALICE, rights=rights)
    code = RunRequest("bash" if "bash" in rights.languages else "python", "out hi")
    for each in (
        lambda: manager.run(code, caller=lesser, session=session, on_event=ignore),
        lambda: manager.processes.perform(
            StartProcess(("true",)), caller=lesser, session=session, on_event=ignore
        ),
        lambda: manager.processes.perform(
            WriteProcess("p1-0000", b"import os"), caller=lesser, session=session, on_event=ignore
        ),
        lambda: manager.sessions.reset(session, "sandbox", caller=lesser, on_event=ignore),
    ):
        wrong = await refusal(each)
        assert isinstance(wrong, PolicyDenied | InvalidRequest)
        assert "nothing was run" in wrong.hint or "unknown language" in wrong.message
    (container,) = engine.started
    assert container.runner.ran == 1
    assert manager.sessions.info(session, caller=lesser).info.state == "kept"
    assert (await run(manager, "get x", principal="alice", session=session)).stdout.text == "1\n"
    manager.sessions.close(session, caller=lesser)
    await anyio.wait_all_tasks_blocked()
    assert engine.destroyed == 1
