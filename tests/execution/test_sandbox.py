"""A sandbox over the wire: what its runner says, what it does not say, and what it should not say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sandbox_server import wire
from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import InvalidRequest, LimitExceeded, SandboxLost
from sandbox_server.execution import link
from sandbox_server.execution import sandbox as sandbox_module
from sandbox_server.execution.models import InputFile, Output, RunEvent
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.wire import Type
from tests.execution.support import capture, job, opened, say, start

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024


async def text_of(sandbox: Sandbox, code: str, **changes: Any) -> str:
    caught = capture()
    await sandbox.run(job(code, **changes), caught)
    return caught.finish("stdout").text


# --- what works


async def test_output_comes_in_order_apart_and_live() -> None:
    events: list[RunEvent] = []
    caught = capture()
    async with opened(await start(FakeEngine())) as sandbox:
        exit = await sandbox.run(job("out one\nerr two\nout three\nexit 3"), caught, events.append)
    assert exit.report is not None
    assert exit.report.exit_code == 3
    assert exit.host_cause is None
    assert caught.finish("stdout").text == "one\nthree\n"
    assert caught.finish("stderr").text == "two\n"
    assert [(e.stream, e.data) for e in events if isinstance(e, Output)] == [
        ("stdout", b"one\n"),
        ("stderr", b"two\n"),
        ("stdout", b"three\n"),
    ]


@pytest.mark.parametrize("size", [0, 1, wire.WINDOW, wire.WINDOW + 1, 5 * MIB])
async def test_input_of_any_size_reaches_the_program(size: int) -> None:
    data = b"x" * size
    caught = capture(output=8 * MIB)
    async with opened(await start(FakeEngine())) as sandbox:
        with anyio.fail_after(5):
            await sandbox.run(job("cat", stdin=data), caught)
    assert caught.finish("stdout").total_bytes == size


async def test_output_beyond_every_window_flows() -> None:
    caught = capture()
    async with opened(await start(FakeEngine())) as sandbox:
        with anyio.fail_after(5):
            exit = await sandbox.run(job(f"flood {20 * MIB}\nout done"), caught)
    assert exit.report is not None
    assert exit.report.exit_code == 0
    assert caught.finish("stdout").total_bytes == 20 * MIB + 5


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
async def test_a_file_is_put_whole(size: int) -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox:
        with anyio.fail_after(5):
            await sandbox.put(InputFile("a/b.bin", b"\xff" * size))
    assert container.runner.files == {"a/b.bin": b"\xff" * size}


# --- limits and cancelling


async def test_beyond_the_output_total_the_run_is_stopped() -> None:
    caught = capture(total=10_000)
    async with opened(await start(FakeEngine())) as sandbox:
        with anyio.fail_after(5):
            exit = await sandbox.run(job("flood 20000\nwait"), caught)
        assert exit.host_cause == "output"
        assert exit.report is not None
        assert await text_of(sandbox, "out next") == "next\n"


async def test_too_much_output_is_too_much_even_if_the_program_ended_by_itself() -> None:
    """Or the outcome would depend on how the frames happened to arrive."""
    caught = capture(total=10_000)
    async with opened(await start(FakeEngine())) as sandbox:
        exit = await sandbox.run(job("flood 20000"), caught)
    assert exit.host_cause == "output"


async def test_out_of_time_the_run_is_killed_and_the_sandbox_goes_on() -> None:
    async with opened(await start(FakeEngine())) as sandbox:
        with anyio.fail_after(5):
            exit = await sandbox.run(job("wait", wall=0.05), capture())
        assert exit.host_cause == "wall"
        assert exit.report is not None
        assert 0.05 <= exit.wall < 1
        assert await text_of(sandbox, "out next") == "next\n"


async def test_a_run_that_ignores_its_kill_costs_the_container() -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox:
        with anyio.fail_after(5):
            exit = await sandbox.run(job("hang", wall=0.05), capture())
        assert exit.host_cause == "wall"
        assert exit.report is None
        assert not sandbox.alive
    assert container.destroyed


@pytest.mark.parametrize("code", ["wait", "hang"])
async def test_a_cancelled_run_is_dead_before_the_cancelling_returns(code: str) -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox:
        with anyio.fail_after(5):
            with anyio.move_on_after(0.05):
                await sandbox.run(job(code), capture())
            assert container.runner.running is None or container.destroyed
        assert sandbox.alive == (code == "wait")


async def test_a_run_that_is_cancelled_before_it_was_sent_costs_nothing() -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox:
        with anyio.fail_after(0.5), anyio.CancelScope() as scope:
            scope.cancel()
            await sandbox.run(job("set x 1"), capture())
        assert sandbox.alive
        assert await text_of(sandbox, "out next") == "next\n"
    assert not container.destroyed


async def test_a_cancelled_caller_hears_nothing_more() -> None:
    events: list[RunEvent] = []
    async with opened(await start(FakeEngine())) as sandbox:
        with anyio.CancelScope() as scope:

            def listen(event: RunEvent) -> None:
                events.append(event)
                scope.cancel()

            await sandbox.run(job(f"flood {MIB}\nwait"), capture(), listen)
    assert 0 < sum(len(event.data) for event in events if isinstance(event, Output)) <= wire.WINDOW


async def test_a_cancelled_put_leaves_no_writer_behind() -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sandbox.put(InputFile("x", b"y" * MIB))
        with anyio.move_on_after(0.05):
            container.runner.stalled = True
            await sandbox.put(InputFile("x", b"y" * MIB))
        assert container.runner.open_channels == 0
        container.runner.stalled = False
        assert await text_of(sandbox, "out next") == "next\n"


async def test_a_writer_that_takes_nothing_more_can_not_hold_a_call_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program of a session may stop the process that writes the next call's file."""
    monkeypatch.setattr(sandbox_module, "PUT_SECONDS", 0.05)
    container = await start(FakeEngine())
    container.runner.stalled = True
    async with opened(container) as sandbox:
        with anyio.fail_after(2), pytest.raises(SandboxLost) as lost:
            await sandbox.put(InputFile("x", b"y" * MIB))
        assert "nothing was run" in lost.value.hint
        assert not sandbox.alive


async def test_a_job_too_large_for_the_wire_is_refused_and_costs_nothing() -> None:
    async with opened(await start(FakeEngine())) as sandbox:
        with pytest.raises(LimitExceeded):
            await sandbox.run(job("#" + "\x01" * (2 * MIB)), capture())
        assert await text_of(sandbox, "out next") == "next\n"


# --- the end of a sandbox


@pytest.mark.parametrize(("code", "oom"), [("die", False), ("die-oom", True)])
async def test_a_sandbox_that_dies_under_a_run_says_how(code: str, oom: bool) -> None:
    async with opened(await start(FakeEngine())) as sandbox:
        with anyio.fail_after(2):
            exit = await sandbox.run(job(f"out before\n{code}"), capture())
        assert exit.report is None
        assert exit.death is not None
        assert exit.death.out_of_memory == oom
        assert not sandbox.alive


async def test_a_run_in_a_sandbox_that_has_just_died_does_not_wait_for_its_time() -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox:
        container.runner.death = Death(1, False, "gone")
        container.stream.wake()
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(1):
            exit = await sandbox.run(job("out hello"), capture())
            assert exit.report is None
            with pytest.raises(SandboxLost):
                await sandbox.put(InputFile("x", b"y" * MIB))


async def test_processes_that_could_not_be_ended_cost_the_sandbox() -> None:
    async with opened(await start(FakeEngine())) as sandbox:
        exit = await sandbox.run(job("crowd"), capture())
        assert exit.report is not None
        assert not sandbox.alive


async def test_an_engine_that_can_not_destroy_now_is_asked_again() -> None:
    engine = FakeEngine()
    container = await start(engine)
    async with opened(container) as sandbox:
        engine.down = True
        assert not await sandbox.destroy()
        assert not sandbox.alive
        engine.down = False
        assert await sandbox.destroy()
    assert container.destroyed


# --- an engine whose stream or calls hang


class Stuck:
    """A container whose stream takes bytes until `full`, and whose engine is slow to answer."""

    id = "stuck"

    def __init__(self, script: Callable[[bytes], bytes]) -> None:
        self._script = script
        self._sent = bytearray()
        self._change = anyio.Event()
        self.full = False
        self.stream: Any = self

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._sent:
            self._change = anyio.Event()
            await self._change.wait()
        data, self._sent = bytes(self._sent), bytearray()
        return data

    async def send(self, item: bytes) -> None:
        if self.full:
            await anyio.sleep_forever()
        self._sent += self._script(item)
        self._change.set()

    async def death(self) -> Death:
        await anyio.sleep_forever()
        raise AssertionError

    async def destroy(self) -> None:
        await anyio.sleep_forever()


def greeting(_: bytes) -> bytes:
    return wire.encode_json(Type.READY, 0, {})


async def test_a_frozen_sandbox_and_a_hanging_engine_hold_a_call_for_seconds_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox_module, "KILL_GRACE", 0.05)
    for name in ("SEND_SECONDS", "DESTROY_SECONDS", "DEATH_SECONDS"):
        monkeypatch.setattr(link, name, 0.05)
    container = Stuck(greeting)
    container._sent += wire.encode_json(Type.HELLO, 0, {"protocol": 1})
    async with opened(container, Profile("python")) as sandbox:
        container.full = True
        with anyio.fail_after(1):
            exit = await sandbox.run(job("out hello", wall=30.0), capture())
            assert exit.report is None
            assert exit.death is not None
            assert "takes no more input" in exit.death.reason
            assert not await sandbox.destroy()


@pytest.mark.parametrize(
    ("report", "error"),
    [
        ({"ok": False, "error": "ENOSPC", "message": "No space left"}, LimitExceeded),
        ({"ok": False, "error": "EFBIG", "message": "too large"}, LimitExceeded),
        ({"ok": False, "error": "EISDIR", "message": "is a directory"}, InvalidRequest),
        ({"ok": "true"}, SandboxLost),
        ({}, SandboxLost),
    ],
)
async def test_a_refused_file_is_the_callers_or_the_sandboxs_fault(
    report: dict[str, Any], error: type[Exception]
) -> None:
    container = await start(FakeEngine())
    container.runner.stalled = True
    async with opened(container) as sandbox, anyio.create_task_group() as tasks:
        tasks.start_soon(say, container, wire.encode_json(Type.CLOSE, 1, report))
        with anyio.fail_after(2), pytest.raises(error):
            await sandbox.put(InputFile("x", b"y" * MIB))
        assert sandbox.alive == (error is not SandboxLost)
