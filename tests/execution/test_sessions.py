"""What a session says of its state is true, and nothing of it outlives its connection."""

from __future__ import annotations

import anyio
import pytest

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import EngineUnavailable, SandboxLost
from sandbox_server.execution.api import Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import InputFile, RunResult
from tests.execution.support import SIZING, managed, request, run, told

pytestmark = pytest.mark.anyio


# --- kept


async def test_variables_and_files_live_on_between_the_calls_of_a_connection(
    manager: Manager, engine: FakeEngine
) -> None:
    first = await run(manager, "set x 42", on="c", files=(InputFile("a", b"1"),))
    second = await run(manager, "get x", on="c", files=(InputFile("b", b"2"),))
    assert (told(first), told(second)) == (("ok", "kept"), ("ok", "kept"))
    assert second.stdout.text == "42\n"
    assert first.session.id == second.session.id
    assert second.session.expires_in is not None
    assert 0 < second.session.expires_in <= SIZING.session_idle
    assert engine.started[0].runner.files == {"a": b"1", "b": b"2"}
    assert len(engine.started) == 1


async def test_connections_share_nothing(manager: Manager) -> None:
    one = await run(manager, "set x 42", on="one")
    two = await run(manager, "get x", on="two")
    assert two.outcome == "error"
    assert one.session.id != two.session.id


async def test_a_failing_program_keeps_its_session(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    assert told(await run(manager, "exit 1", on="c")) == ("error", "kept")
    assert (await run(manager, "get x", on="c")).stdout.text == "42\n"


async def test_calls_of_one_session_come_one_after_the_other(manager: Manager) -> None:
    results: list[RunResult] = []

    async def call(code: str) -> None:
        results.append(await run(manager, code, on="c", wall=0.05))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "wait")
        tasks.start_soon(call, "out second")
    assert [result.outcome for result in results] == ["timeout", "ok"]
    assert results[1].timings.queue >= 0.04


async def test_a_session_that_waits_holds_up_no_other(manager: Manager) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, manager, "wait")
        scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                await run(manager, "wait", on="slow")

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(1):
            assert (await run(manager, "out hi", on="quick")).outcome == "ok"
        tasks.cancel_scope.cancel()


# --- reset


async def test_a_timeout_takes_the_interpreter_and_leaves_the_files(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    assert told(await run(manager, "wait", on="c", wall=0.05)) == ("timeout", "reset")
    after = await run(manager, "get x", on="c")
    assert told(after) == ("error", "kept")


async def test_a_cell_that_hears_the_interrupt_keeps_its_variables(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    stopped = await run(manager, "sleep", on="c", wall=0.05)
    assert (*told(stopped), stopped.limit, stopped.exit_code) == ("timeout", "kept", "wall", 130)
    assert "interrupted" in stopped.session.note
    after = await run(manager, "get x", on="c")
    assert (after.stdout.text, after.session.note) == ("42\n", "")


async def test_a_one_shot_run_is_not_interrupted_but_killed(manager: Manager) -> None:
    result = await run(manager, "sleep", wall=0.05)
    assert (result.outcome, result.signal) == ("timeout", "SIGKILL")


async def test_a_cancelled_cell_that_hears_the_interrupt_keeps_its_variables(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    await cancel_in(manager, "sleep")
    after = await run(manager, "get x", on="c")
    assert (after.stdout.text, after.session.state) == ("42\n", "kept")


async def test_a_build_that_fails_is_a_compile_error_and_counts_no_cell(manager: Manager) -> None:
    result = await run(manager, "nobuild 2", on="c")
    assert (result.outcome, result.exit_code, result.session.state) == ("compile_error", 2, "kept")


async def test_an_interpreter_that_died_in_a_call_is_told_by_that_call(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    assert told(await run(manager, "signal 11", on="c")) == ("signal", "reset")
    assert told(await run(manager, "get x", on="c")) == ("error", "kept")


async def test_an_interpreter_that_died_between_calls_is_told_by_the_next(
    manager: Manager, engine: FakeEngine
) -> None:
    await run(manager, "set x 42", on="c")
    engine.started[0].runner.memory = None
    after = await run(manager, "out hi", on="c")
    assert told(after) == ("ok", "reset")
    assert "had ended" in after.session.note


async def cancel_in(manager: Manager, code: str) -> None:
    """Cancel a call of connection "c" once its code runs."""
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            await run(manager, code, on="c")

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()


async def test_after_a_cancelled_call_the_next_one_says_that_variables_are_gone(
    manager: Manager, engine: FakeEngine
) -> None:
    await run(manager, "set x 42", on="c")
    await cancel_in(manager, "wait")
    after = await run(manager, "get x", on="c")
    assert told(after) == ("error", "reset")
    assert "cancelled" in after.session.note
    assert told(await run(manager, "out hi", on="c")) == ("ok", "kept")
    engine.started[0].runner.memory = None
    assert "cancelled" not in (await run(manager, "out hi", on="c")).session.note


async def test_a_cancelled_first_call_is_told_as_well(manager: Manager) -> None:
    await cancel_in(manager, "set x 42\nwait")
    assert told(await run(manager, "get x", on="c")) == ("error", "reset")


async def test_a_call_that_was_cancelled_before_its_code_ran_changes_nothing(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run(manager, "set x 0", on="c")
    after = await run(manager, "get x", on="c")
    assert told(after) == ("ok", "kept")
    assert after.stdout.text == "42\n"


async def test_a_call_cancelled_as_it_ended_says_kept_if_the_interpreter_lives(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    with anyio.CancelScope() as scope:
        # The whole run is over, but its result has not been given yet.
        await manager.run(
            request("out bye"), caller=Caller(connection="c"), on_event=lambda _: scope.cancel()
        )
    assert scope.cancelled_caught
    after = await run(manager, "get x", on="c")
    assert told(after) == ("ok", "kept")
    assert after.stdout.text == "42\n"


# --- lost


@pytest.mark.parametrize(("code", "outcome"), [("die-oom", "out_of_memory"), ("hang", "timeout")])
async def test_a_call_that_costs_the_sandbox_says_that_all_is_lost(
    manager: Manager, engine: FakeEngine, code: str, outcome: str
) -> None:
    await run(manager, "set x 42", on="c")
    lost = await run(manager, code, on="c", wall=0.05)
    assert told(lost) == (outcome, "lost")
    assert lost.session.expires_in is None
    after = await run(manager, "get x", on="c")
    assert told(after) == ("error", "kept")
    await anyio.wait_all_tasks_blocked()
    assert engine.live == 1


async def test_a_sandbox_that_died_under_the_code_is_an_error_that_says_it_may_have_run(
    manager: Manager, engine: FakeEngine
) -> None:
    with pytest.raises(SandboxLost) as lost:
        await run(manager, "die", on="c")
    assert "may have run" in lost.value.hint
    assert told(await run(manager, "out hi", on="c")) == ("ok", "kept")
    await anyio.wait_all_tasks_blocked()
    assert engine.live == 1


async def test_a_sandbox_that_died_between_calls_is_told_by_the_next(
    manager: Manager, engine: FakeEngine
) -> None:
    await run(manager, "set x 42", on="c")
    engine.started[0].runner.death = Death(137, True, "gone")
    engine.started[0].stream.wake()
    await anyio.wait_all_tasks_blocked()
    after = await run(manager, "get x", on="c")
    assert told(after) == ("error", "lost")
    assert "died" in after.session.note
    assert told(await run(manager, "out hi", on="c")) == ("ok", "kept")


async def test_a_cancelled_call_that_cost_the_sandbox_is_told_by_the_next(manager: Manager) -> None:
    await run(manager, "set x 42", on="c")
    await cancel_in(manager, "hang")
    after = await run(manager, "get x", on="c")
    assert told(after) == ("error", "lost")
    assert "cancelled" in after.session.note


async def test_processes_that_could_not_be_ended_cost_the_session(manager: Manager) -> None:
    assert told(await run(manager, "crowd", on="c")) == ("ok", "lost")


async def test_what_is_lost_is_told_once_even_if_a_call_failed_in_between(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, session_idle=0.0) as manager:
            await run(manager, "set x 42", on="c")
            engine.fail_next(EngineUnavailable("a hiccup"))
            with pytest.raises(EngineUnavailable):
                await run(manager, "get x", on="c")
            after = await run(manager, "get x", on="c")
    assert told(after) == ("error", "lost")


@pytest.mark.parametrize("sizing", [{"session_idle": 0.0}, {"session_ttl": 0.0}])
async def test_an_expired_session_says_so_in_the_next_call(
    engine: FakeEngine, sizing: dict[str, float]
) -> None:
    with anyio.fail_after(10):
        async with managed(engine, **sizing) as manager:
            await run(manager, "set x 42", on="c")
            after = await run(manager, "get x", on="c")
            assert told(after) == ("error", "lost")
            assert "expired" in after.session.note
            await anyio.wait_all_tasks_blocked()
            assert engine.live == 1


async def test_an_expired_session_is_destroyed_without_any_call(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, session_idle=0.0, reap_every=0.02) as manager:
            await run(manager, "set x 42", on="c")
            while engine.live:
                await anyio.wait_all_tasks_blocked()
            assert (await manager.health())["sessions"] == 0


async def test_a_dead_session_gives_its_place_back_without_any_call(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, reap_every=0.02) as manager:
            await run(manager, "set x 42", on="c")
            engine.started[0].runner.death = Death(137, True, "gone")
            engine.started[0].stream.wake()
            while engine.live:
                await anyio.wait_all_tasks_blocked()
            assert told(await run(manager, "get x", on="c")) == ("error", "lost")


async def test_a_running_session_does_not_expire(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, session_idle=0.0, reap_every=0.01) as manager:
            result = await run(manager, "wait", on="c", wall=0.2)
    assert told(result) == ("timeout", "reset")
