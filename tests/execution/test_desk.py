"""Sessions that callers make: whose they are, how long they live, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import (
    Busy,
    EngineUnavailable,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution.api import Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import (
    InputFile,
    RunResult,
    SessionRequest,
    SessionView,
)
from sandbox_server.execution.session import Session
from sandbox_server.execution.sessions import MOST_ENDED_EACH
from tests.execution.support import PYTHON, SIZING, ignore, managed, nothing_left, opened, run, start, told

pytestmark = pytest.mark.anyio

ALICE, BOB = Caller("alice"), Caller("bob")


async def create(manager: Manager, caller: Caller = ALICE, **wanted: Any) -> SessionView:
    return await manager.sessions.create(SessionRequest(**wanted), caller=caller, on_event=ignore)


def handle_of(view: SessionView) -> str:
    assert view.info.id is not None
    return view.info.id


async def cell(manager: Manager, view: SessionView, code: str, **changes: Any) -> RunResult:
    return await run(manager, code, principal="alice", session=handle_of(view), **changes)


async def refusal(call: Callable[[], Any]) -> SandboxServerError:
    with pytest.raises(SandboxServerError) as caught:
        await call()
    return caught.value


# --- made and used


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


# --- whose


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


# --- how long


async def test_what_is_said_of_the_time_left_is_true(engine: FakeEngine) -> None:
    async with managed(engine, session_idle=100.0, session_ttl=1000.0) as manager:
        session = await create(manager, ttl=50.0)
        assert session.info.expires_in == pytest.approx(50.0, abs=0.5)
        longer = manager.sessions.extend(handle_of(session), 80.0, caller=ALICE)
        assert longer.info.expires_in == pytest.approx(80.0, abs=0.5)
        longest = manager.sessions.extend(handle_of(session), None, caller=ALICE)
        assert longest.info.expires_in == pytest.approx(100.0, abs=0.5)  # idle
        result = await cell(manager, session, "out hi")
        assert result.session.expires_in == pytest.approx(100.0, abs=0.5)
        with pytest.raises(LimitExceeded, match="more than this session can have"):
            manager.sessions.extend(handle_of(session), 1001.0, caller=ALICE)


async def test_looking_does_not_prolong(engine: FakeEngine) -> None:
    async with managed(engine) as manager:
        session = await create(manager)
        before = manager.sessions.info(handle_of(session), caller=ALICE).info.expires_in
        after = manager.sessions.info(handle_of(session), caller=ALICE).info.expires_in
        assert before is not None
        assert after is not None
        assert after < before < SIZING.session_idle


@pytest.mark.parametrize("sizing", [{"session_idle": 0.0}, {"session_ttl": 1e-9}])
async def test_an_expired_handle_says_that_it_expired_and_that_nothing_survived(
    engine: FakeEngine, sizing: dict[str, float]
) -> None:
    async with managed(engine, **sizing) as manager:
        session = await create(manager)
        for _ in range(2):
            over = await refusal(lambda: cell(manager, session, "out hi"))
            assert isinstance(over, NotFound)
            assert "expired" in over.message
            assert "gone" in over.message
        assert await nothing_left(manager, engine)


async def test_an_expired_session_is_destroyed_without_any_call(engine: FakeEngine) -> None:
    with anyio.fail_after(5):
        async with managed(engine, session_idle=0.0, reap_every=0.02) as manager:
            session = await create(manager)
            while engine.live:
                await anyio.wait_all_tasks_blocked()
            assert "expired" in (await refusal(lambda: cell(manager, session, "out hi"))).message


@pytest.mark.parametrize(
    ("ttl", "error"), [(0.0, InvalidRequest), (-1.0, InvalidRequest), (1e9, LimitExceeded)]
)
async def test_a_ttl_beyond_the_policy_makes_no_session(
    manager: Manager, engine: FakeEngine, ttl: float, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await create(manager, ttl=ttl)
    assert engine.started == []


# --- how it ends


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


# --- reset


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


# --- how many


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
