"""The manager: one call from its request to its result, and nothing left of it."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeContainer, FakeEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import (
    Busy,
    ConfigError,
    EngineUnavailable,
    InvalidRequest,
    LimitExceeded,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution.api import Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import InputFile, Isolation, Output, Queued, RunEvent, RunResult
from tests.execution.support import ignore, managed, nothing_left, request, run

pytestmark = pytest.mark.anyio


# --- results


@pytest.mark.parametrize(
    ("code", "outcome", "exit_code", "signal", "limit"),
    [
        ("out hi", "ok", 0, None, None),
        ("exit 3", "error", 3, None, None),
        ("signal 11", "signal", None, "SIGSEGV", None),
        ("wait", "timeout", None, "SIGKILL", "wall"),
        ("hang", "timeout", None, None, "wall"),
        ("oom\nexit 0", "out_of_memory", 0, None, "memory"),
        ("oom\nsignal 9", "out_of_memory", None, "SIGKILL", "memory"),
        ("die-oom", "out_of_memory", None, None, "memory"),
        ("full /workspace\nexit 1", "disk_full", 1, None, "disk"),
        ("full /workspace\nexit 0", "ok", 0, None, None),
        ("flood 2000000\nwait", "output_limit", None, "SIGKILL", "output"),
    ],
)
async def test_every_ending_is_told_as_it_was_and_leaves_nothing(
    manager: Manager,
    engine: FakeEngine,
    code: str,
    outcome: str,
    exit_code: int | None,
    signal: str | None,
    limit: str | None,
) -> None:
    wall = 0.1 if code in ("wait", "hang") else 10.0
    result = await run(manager, code, wall=wall)
    assert (result.outcome, result.exit_code, result.signal, result.limit) == (
        outcome,
        exit_code,
        signal,
        limit,
    )
    assert result.session.state == "none"
    assert result.session.id is None
    assert await nothing_left(manager, engine)


async def test_a_result_holds_what_the_program_made(manager: Manager) -> None:
    code = "out to stdout\nerr to stderr\nvalue 42\ndisplay text/html <b>\nargs\ncat"
    result = await run(manager, code, args=("a", "b"), stdin=b"from stdin")
    assert result.stdout.text == "to stdout\na b\nfrom stdin"
    assert result.stderr.text == "to stderr\n"
    assert result.value == "42"
    assert [(shown.mime, shown.data) for shown in result.displays] == [("text/html", b"<b>")]
    assert result.displays_omitted == 0
    assert result.usage.cpu == 0.001
    assert result.usage.peak_memory == 8 * 1024 * 1024
    assert 0 < result.usage.wall <= result.timings.total
    assert result.isolation == Isolation("runc", "container", "default")


async def test_output_is_cut_to_what_the_caller_asked_for(manager: Manager) -> None:
    result = await run(manager, "flood 100000", output=1000)
    assert result.stdout.total_bytes == 100_000
    assert result.stdout.omitted_bytes == 99_000
    assert len(result.stdout.text) < 1100


async def test_events_come_live_and_in_order(manager: Manager) -> None:
    events: list[RunEvent] = []
    await manager.run(request("out a\nerr b"), caller=Caller(), on_event=events.append)
    assert events == [Queued(1), Output("stdout", b"a\n"), Output("stderr", b"b\n")]


async def test_a_listener_that_breaks_costs_nobody_anything(manager: Manager) -> None:
    calls = 0

    def broken(event: RunEvent) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("a bug")

    result = await manager.run(request("out a\nout b"), caller=Caller(), on_event=broken)
    assert (result.outcome, result.stdout.text) == ("ok", "a\nb\n")
    assert calls == 1
    assert (await run(manager, "out hi")).outcome == "ok"


async def test_files_are_there_before_the_code(manager: Manager, engine: FakeEngine) -> None:
    files = (InputFile("/workspace/data/a.csv", b"1,2"), InputFile("./b", b""))
    await run(manager, "out hi", files=files)
    assert engine.started[0].runner.files == {"data/a.csv": b"1,2", "b": b""}


async def test_warm_and_cold_are_told_apart(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, warm=1) as manager:
            assert (await run(manager, "out hi")).timings.warm
            engine.gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                results = []

                async def call() -> None:
                    results.append(await run(manager, "out hi"))

                tasks.start_soon(call)
                tasks.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                engine.gate.set()
            assert any(not result.timings.warm for result in results)


async def test_every_run_gets_a_sandbox_of_its_own(manager: Manager, engine: FakeEngine) -> None:
    await run(manager, "set x 42")
    assert (await run(manager, "get x")).outcome == "error"
    assert len(engine.started) == 2


# --- what is not run at all


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"language": "cobol"}, InvalidRequest),
        ({"code": ""}, InvalidRequest),
        ({"code": " \n\t"}, InvalidRequest),
        ({"wall": 0}, InvalidRequest),
        ({"wall": -1}, InvalidRequest),
        ({"wall": math.nan}, InvalidRequest),
        ({"wall": math.inf}, LimitExceeded),
        ({"wall": 10**9}, LimitExceeded),
        ({"output": -1}, InvalidRequest),
        ({"output": 10**12}, LimitExceeded),
        ({"files": (InputFile("../x", b""),)}, InvalidRequest),
        ({"files": (InputFile("/etc/passwd", b""),)}, InvalidRequest),
        ({"args": ("\x01" * 100_000,) * 64}, LimitExceeded),
    ],
)
async def test_a_wrong_request_is_refused_and_nothing_runs(
    manager: Manager, engine: FakeEngine, changes: dict[str, Any], error: type[SandboxServerError]
) -> None:
    with pytest.raises(error) as refused:
        await manager.run(request(**{"code": "out hi", **changes}), caller=Caller(), on_event=ignore)
    assert refused.value.hint
    assert all(not container.runner.ran for container in engine.started)
    assert await nothing_left(manager, engine)


async def test_the_limits_of_the_policy_rule_what_the_caller_did_not_choose(manager: Manager) -> None:
    result = await run(manager, "flood 2000000\nwait", output_total=10**12, wall=20)
    assert result.outcome == "output_limit"


# --- sandboxes that die, engines that fail


async def test_a_sandbox_that_dies_under_the_code_says_that_it_may_have_run(
    manager: Manager, engine: FakeEngine
) -> None:
    with pytest.raises(SandboxLost) as lost:
        await run(manager, "out hi\ndie")
    assert "may have run" in lost.value.hint
    assert not lost.value.retry_safe
    assert await nothing_left(manager, engine)


class DyingInPut(FakeEngine):
    """The first `victims` sandboxes die when a file is put into them."""

    victims = 1

    async def start(self, profile: Profile, *, deadline: float) -> FakeContainer:
        container = await super().start(profile, deadline=deadline)
        if len(self.started) <= self.victims:
            container.runner.die_on_write = Death(1, False, "died early")
        return container


async def test_one_that_dies_before_the_code_was_sent_is_replaced() -> None:
    engine = DyingInPut()
    with anyio.fail_after(10):
        async with managed(engine) as manager:
            result = await run(manager, "out hi", files=(InputFile("a", b"1"),))
            assert result.outcome == "ok"
            assert len(engine.started) == 2
            assert await nothing_left(manager, engine)


async def test_but_not_for_ever() -> None:
    engine = DyingInPut()
    engine.victims = 99
    with anyio.fail_after(10):
        async with managed(engine) as manager:
            with pytest.raises(SandboxLost) as lost:
                await run(manager, "out hi", files=(InputFile("a", b"1"),))
            assert "nothing was run" in lost.value.hint
            assert len(engine.started) == 3
            assert await nothing_left(manager, engine)


async def test_a_dead_engine_is_never_program_output_and_it_recovers(engine: FakeEngine) -> None:
    engine.down = True
    with anyio.fail_after(10):
        async with managed(engine, warm=1) as manager:
            with anyio.fail_after(1), pytest.raises(EngineUnavailable):
                await run(manager, "out hi")
            with anyio.fail_after(1), pytest.raises(EngineUnavailable):
                await run(manager, "out hi", on="c")
            health = await manager.health()
            assert health["engine"] == "engine_unavailable"
            assert manager.languages(Caller()) == ("python", "javascript", "bash")
            engine.down = False
            assert (await run(manager, "out hi")).outcome == "ok"
            assert (await manager.health())["engine"] == "ok"


async def test_a_missing_image_is_the_operators_to_mend(engine: FakeEngine) -> None:
    engine.missing["pids"] = "no pids controller"
    with anyio.fail_after(10):
        async with managed(engine) as manager:
            with pytest.raises(ConfigError):
                await run(manager, "out hi")
            engine.missing.clear()
            assert (await run(manager, "out hi")).outcome == "ok"


async def test_an_engine_that_goes_away_under_a_run_leaves_it_to_end(
    manager: Manager, engine: FakeEngine
) -> None:
    async def call() -> None:
        results.append(await run(manager, "wait", wall=0.2))

    results: list[Any] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        engine.down = True
    assert [result.outcome for result in results] == ["timeout"]
    assert (await manager.health())["sandboxes"] == engine.live == 1
    engine.down = False
    with anyio.fail_after(3):
        while engine.live:
            await anyio.wait_all_tasks_blocked()
    assert await nothing_left(manager, engine)


# --- too many


async def test_a_full_house_is_busy_and_says_when_to_come_back(engine: FakeEngine) -> None:
    with anyio.fail_after(10):
        async with managed(engine, sandboxes=1, queue=1) as manager, anyio.create_task_group() as tasks:
            engine.gate = anyio.Event()
            tasks.start_soon(run, manager, "out hi")
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Busy) as busy:
                await run(manager, "out hi")
            assert busy.value.retry_after > 0
            tasks.cancel_scope.cancel()


async def test_waiting_calls_are_told_their_position(engine: FakeEngine) -> None:
    positions: list[int] = []

    def listen(event: RunEvent) -> None:
        if isinstance(event, Queued):
            positions.append(event.position)

    with anyio.fail_after(10):
        async with managed(engine, sandboxes=1) as manager, anyio.create_task_group() as tasks:
            tasks.start_soon(run, manager, "wait")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(run, manager, "out hi")
            await anyio.wait_all_tasks_blocked()

            async def listening() -> None:
                await manager.run(request("out hi"), caller=Caller(), on_event=listen)

            tasks.start_soon(listening)
            await anyio.wait_all_tasks_blocked()
            assert positions == [2]
            assert (await manager.health())["waiting"] == 2
            tasks.cancel_scope.cancel()


# --- cancelling


@pytest.mark.parametrize("on", [None, "c"])
@pytest.mark.parametrize("code", ["wait", "hang", "cat", "flood 1000000\nwait"])
async def test_a_cancelled_call_leaves_nothing(
    manager: Manager, engine: FakeEngine, code: str, on: str | None
) -> None:
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            await run(manager, code, on=on, stdin=b"x" * 1_000_000)

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert all(container.runner.running is None or container.destroyed for container in engine.started)
    await manager.close_connection("c")
    assert await nothing_left(manager, engine)


async def test_a_call_cancelled_while_it_waits_leaves_nothing(manager: Manager, engine: FakeEngine) -> None:
    engine.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, manager, "out hi")
        tasks.start_soon(run, manager, "out hi")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert (await manager.health())["waiting"] == 0
    engine.gate.set()
    await anyio.wait_all_tasks_blocked()
    health = await manager.health()
    assert health["sandboxes"] == health["warm"] == engine.live


async def test_a_call_that_waits_for_a_place_is_told_so_and_what_it_waits_for_its_sandbox_too(
    engine: FakeEngine,
) -> None:
    async with managed(engine, sandboxes=1) as manager:
        results: list[RunResult] = []

        async def call(code: str) -> None:
            results.append(await run(manager, code, wall=0.05))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, "wait")
            tasks.start_soon(call, "out second")
        first, second = (result.timings for result in results)
        assert first.queue < 0.04 <= second.queue
        assert second.acquire < 0.04
        assert second.total >= second.queue + second.acquire + second.run
