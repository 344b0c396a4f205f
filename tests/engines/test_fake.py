"""The fake engine's script language and its knobs: other tests build on them."""

from __future__ import annotations

import time

import anyio
import pytest

from sandbox_server import wire
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import EngineUnavailable
from sandbox_server.wire import Type, encode, encode_json
from tests.engines.driver import Driver

PROFILE = Profile("python")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def runner(engine: FakeEngine) -> Driver:
    runner = Driver(await engine.start(PROFILE, deadline=time.time() + 60))
    await runner.greet()
    return runner


async def test_a_script_prints_and_exits(runner: Driver) -> None:
    finished = await runner.run("out hello\nerr oops\nexit 3\nout never", args=["a"])
    assert (finished.stdout, finished.stderr) == ("hello\n", "oops\n")
    assert finished.report["exit_code"] == 3
    assert finished.report["signal"] is None
    assert finished.report["alone"] is True


async def test_a_script_can_die_by_a_signal(runner: Driver) -> None:
    report = (await runner.run("signal 11")).report
    assert (report["exit_code"], report["signal"]) == (None, 11)


async def test_variables_live_as_long_as_the_kept_interpreter(runner: Driver) -> None:
    first = await runner.run("set x 1", keep=True)
    second = await runner.run("get x", keep=True)
    assert (first.report["fresh"], second.report["fresh"], second.stdout) == (True, False, "1\n")
    assert (await runner.run("get x")).report["exit_code"] == 1
    killed = await runner.run("signal 9", keep=True)
    assert killed.report["interpreter"] == "gone"
    after = await runner.run("get x", keep=True)
    assert (after.report["exit_code"], after.report["fresh"]) == (1, True)


async def test_a_flood_stops_where_the_window_ends_until_credit_comes(
    engine: FakeEngine, runner: Driver
) -> None:
    channel = await runner.open({"op": "run", "code": f"flood {wire.WINDOW + 10}", "args": []})
    received = 0
    while received < wire.WINDOW:
        received += len((await runner.receive()).payload)
    assert received == wire.WINDOW
    assert not engine.started[0].runner.sent
    await engine.started[0].stream.send(wire.encode_credit(channel, 10))
    assert len((await runner.receive()).payload) == 10
    assert (await runner.receive()).type is Type.CLOSE


async def test_cancel_ends_a_waiting_script_but_not_a_deaf_one(engine: FakeEngine, runner: Driver) -> None:
    channel = await runner.open({"op": "run", "code": "wait", "args": []})
    await runner.cancel(channel)
    report = (await runner.finish(channel)).report
    assert (report["cause"], report["signal"]) == ("cancelled", 9)
    await runner.cancel(await runner.open({"op": "run", "code": "hang", "args": []}))
    assert not engine.started[0].runner.sent
    await engine.started[0].destroy()
    with pytest.raises(anyio.EndOfStream):
        await runner.receive()


async def test_stdin_is_echoed_once_it_has_ended(engine: FakeEngine, runner: Driver) -> None:
    channel = await runner.open({"op": "run", "code": "cat", "args": [], "stdin": True})
    await engine.started[0].stream.send(encode(Type.DATA, channel, b"abc") + encode(Type.END, channel))
    assert (await runner.finish(channel)).stdout == "abc"


async def test_files_are_kept_where_a_test_can_see_them(engine: FakeEngine, runner: Driver) -> None:
    channel = await runner.open({"op": "write", "path": "a/b"})
    await engine.started[0].stream.send(encode(Type.DATA, channel, b"data") + encode(Type.END, channel))
    assert (await runner.finish(channel)).report == {"ok": True, "size": 4}
    assert engine.started[0].runner.files == {"a/b": b"data"}


async def test_one_run_at_a_time(runner: Driver) -> None:
    first = await runner.open({"op": "run", "code": "wait", "args": []})
    assert (await runner.finish(await runner.open({"op": "run", "code": "", "args": []}))).report[
        "ok"
    ] is False
    await runner.cancel(first)


@pytest.mark.parametrize(("command", "oom"), [("die", False), ("die-oom", True)])
async def test_a_sandbox_can_die_under_a_run(
    engine: FakeEngine, runner: Driver, command: str, oom: bool
) -> None:
    await runner.open({"op": "run", "code": f"out last words\n{command}", "args": []})
    assert (await runner.receive()).payload == b"last words\n"
    with pytest.raises(anyio.EndOfStream):
        await runner.receive()
    death = await engine.started[0].death()
    assert (death.exit_code, death.out_of_memory) == (137, oom)


async def test_garbage_breaks_the_wires_rules(runner: Driver) -> None:
    await runner.open({"op": "run", "code": "garbage", "args": []})
    with pytest.raises(wire.WireError):
        await runner.receive()


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [("oom", "oom_kills", 1), ("full /workspace", "full", ["/workspace"]), ("crowd", "alone", False)],
)
async def test_a_script_can_report_what_it_wants(
    runner: Driver, line: str, field: str, value: object
) -> None:
    assert (await runner.run(line)).report[field] == value


async def test_side_records_carry_values_and_displays(runner: Driver) -> None:
    channel = await runner.open({"op": "run", "code": "value 42\ndisplay text/html <b>", "args": []})
    records = [(await runner.receive()).payload for _ in range(2)]
    assert records == [b"\x01\0\0\0\x0242", b"\x02\0\0\0\x0dtext/html\0<b>"]
    assert (await runner.finish(channel)).report["exit_code"] == 0


async def test_starts_wait_at_the_gate_and_are_counted(engine: FakeEngine) -> None:
    engine.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: engine.start(PROFILE, deadline=1))
        await anyio.wait_all_tasks_blocked()
        assert (engine.waiting, len(engine.started)) == (1, 0)
        engine.gate.set()
    assert (engine.waiting, engine.live, engine.destroyed) == (0, 1, 0)
    await engine.started[0].destroy()
    assert (engine.live, engine.destroyed) == (0, 1)


async def test_failures_come_in_the_order_they_were_asked_for(engine: FakeEngine) -> None:
    engine.fail_next(EngineUnavailable("first"))
    engine.fail_next(EngineUnavailable("second"))
    for words in ("first", "second"):
        with pytest.raises(EngineUnavailable, match=words):
            await engine.start(PROFILE, deadline=1)
    assert await engine.start(PROFILE, deadline=1)


async def test_an_engine_that_is_down_answers_nothing_and_comes_back(engine: FakeEngine) -> None:
    container = await engine.start(PROFILE, deadline=1)
    engine.down = True
    for call in (engine.probe(), engine.check(PROFILE), engine.start(PROFILE, deadline=1), engine.sweep()):
        with pytest.raises(EngineUnavailable):
            await call
    with pytest.raises(EngineUnavailable):
        await container.destroy()
    engine.down = False
    await container.destroy()
    assert engine.live == 0


async def test_a_mute_runner_never_says_hello(engine: FakeEngine) -> None:
    engine.mute = True
    container = await engine.start(PROFILE, deadline=1)
    with anyio.move_on_after(0.01) as waited:
        await container.stream.receive()
    assert waited.cancelled_caught
    await container.stream.send(encode_json(Type.SETUP, 0, {}))
    assert (await Driver(container).receive()).type is Type.READY
