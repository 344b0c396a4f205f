"""A runner that is not ours any more: whatever it says, only its own sandbox pays."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sandbox_server import wire
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import EngineUnavailable, SandboxLost
from sandbox_server.execution import link
from sandbox_server.execution.models import InputFile, RunEvent
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.wire import Type
from tests.execution.support import PYTHON, capture, job, opened, say, start

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024


def close_report(**changes: Any) -> bytes:
    report: dict[str, Any] = {
        "exit_code": 0,
        "signal": None,
        "cause": None,
        "cpu_us": 1,
        "peak_memory": None,
        "oom_kills": 0,
        "full": [],
        "alone": True,
        "stage": "run",
        "interpreter": None,
        "fresh": False,
    }
    return wire.encode_json(Type.CLOSE, 1, report | changes)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff" * wire.HEADER.size,
        wire.encode(Type.CLOSE, 1, b"not json"),
        wire.encode(Type.CLOSE, 1, b"{}"),
        close_report(exit_code="0"),
        close_report(exit_code=0.5),
        close_report(alone="yes"),
        close_report(cause="mercy"),
        close_report(full=None),
        wire.encode(Type.HELLO, 0, b"[]"),
        wire.encode(Type.READY, 0, b"1"),
        wire.encode(Type.DATA, 1, b"output that is none"),
        wire.encode(Type.OPEN, 1, b"{}"),
    ],
)
async def test_a_runner_that_breaks_the_protocol_loses_its_sandbox_and_nothing_else(frame: bytes) -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox, anyio.create_task_group() as tasks:
        exits = []

        async def run() -> None:
            exits.append(await sandbox.run(job("wait"), capture()))

        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        container.runner.sent += frame
        container.stream.wake()
        with anyio.fail_after(2):
            while not exits:
                await anyio.wait_all_tasks_blocked()
        assert exits[0].report is None
        assert exits[0].death is not None
        assert "broke the protocol" in exits[0].death.reason
        assert not sandbox.alive


@pytest.mark.parametrize(
    "frames",
    [
        close_report() + wire.encode(Type.STDOUT, 1, b"late"),
        close_report() + close_report(exit_code=9),
        close_report() + wire.encode_credit(1, 2**32 - 1),
        wire.encode(Type.STDOUT, 99, b"nobody's") + wire.encode(Type.CLOSE, 99, b"x") + close_report(),
        wire.encode(Type.CREDIT, 1, b"") + close_report(),
        wire.encode(Type.CREDIT, 1, b"\xff" * 60) + close_report(),
    ],
)
async def test_close_is_the_last_word(frames: bytes) -> None:
    container = await start(FakeEngine())
    async with opened(container) as sandbox, anyio.create_task_group() as tasks:
        caught = capture()
        exits = []

        async def run() -> None:
            exits.append(await sandbox.run(job("wait"), caught))

        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        container.runner.sent += frames
        container.stream.wake()
        await anyio.wait_all_tasks_blocked()
        assert exits[0].report is not None
        assert exits[0].report.exit_code == 0
        assert caught.finish("stdout").total_bytes == 0
        assert sandbox.alive


async def test_output_on_a_channel_that_writes_a_file_is_a_breach() -> None:
    container = await start(FakeEngine())
    container.runner.stalled = True
    async with opened(container) as sandbox, anyio.create_task_group() as tasks:
        tasks.start_soon(say, container, wire.encode(Type.STDOUT, 1, b"?"))
        with anyio.fail_after(2), pytest.raises(SandboxLost):
            await sandbox.put(InputFile("x", b"y" * MIB))
        assert not sandbox.alive


@pytest.mark.parametrize("hello", [b'{"protocol":2}', b'{"protocol":"1"}', b"{}", b"junk"])
async def test_a_runner_of_another_protocol_never_becomes_ready(hello: bytes) -> None:
    container = await start(FakeEngine())
    container.runner.sent[:] = wire.encode(Type.HELLO, 0, hello)
    sandbox = Sandbox(container, PYTHON)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.pump)
        with anyio.fail_after(2), pytest.raises(EngineUnavailable) as failed:
            await sandbox.greet()
        assert "did not become ready" in failed.value.message
    assert container.destroyed


async def test_a_silent_runner_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "HANDSHAKE_SECONDS", 0.05)
    engine = FakeEngine()
    engine.mute = True
    sandbox = Sandbox(await start(engine), PYTHON)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.pump)
        with anyio.fail_after(2), pytest.raises(EngineUnavailable):
            await sandbox.greet()
        tasks.cancel_scope.cancel()


async def test_a_listener_that_breaks_ends_its_sandbox_and_not_the_task_group() -> None:
    container = await start(FakeEngine())

    def broken(event: RunEvent) -> None:
        raise RuntimeError("a bug")

    async with opened(container) as sandbox:
        with anyio.fail_after(2):
            exit = await sandbox.run(job("out hello\nwait"), capture(), broken)
        assert exit.report is None
        assert not sandbox.alive
    assert container.destroyed
