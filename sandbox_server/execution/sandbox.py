"""A sandbox as the manager holds it: a container, and our end of its runner's wire.

`images/runner/runner.py` documents the wire. Whatever the runner says is checked: a broken
frame, a wrong type or silence costs the sandbox its life, never the server its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Literal

import anyio
from pydantic import BaseModel, ConfigDict, ValidationError

from sandbox_server import wire
from sandbox_server.engines.base import Container, Death, Engine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import EngineUnavailable, InvalidRequest, LimitExceeded, SandboxLost
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.models import InputFile, RunEvent
from sandbox_server.execution.models import Output as OutputEvent
from sandbox_server.wire import Frame, Type

HANDSHAKE_SECONDS = 30.0
KILL_GRACE = 1.0
"""How long the runner may take to kill a run before the whole container is destroyed."""
SEND_SECONDS = 2.0
DESTROY_SECONDS = 15.0
_CREDIT_STEP = wire.WINDOW // 2

HostCause = Literal["wall", "output", "cancelled"]


class CloseReport(BaseModel):
    """What the runner says of a run. Strict: a runner that says anything else is not believed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    exit_code: int | None
    signal: int | None
    cause: Literal["cancelled", "cpu"] | None
    cpu_us: int | None
    peak_memory: int | None
    oom_kills: int
    full: list[str]
    alone: bool
    interpreter: Literal["kept", "gone"] | None
    fresh: bool


class _PutReport(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    ok: bool
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One run as the runner needs it. Times in seconds; `cpu` None means no limit of its own."""

    mode: Literal["fork", "spawn"]
    file: str
    argv: tuple[str, ...]
    code: str
    args: tuple[str, ...]
    stdin: bytes
    keep: bool
    wall: float
    cpu: float | None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended. `report` is None if the sandbox died under it; then `death` says how.

    `host_cause` is why *we* stopped it, if we did; `wall` is measured by the server's clock.
    """

    report: CloseReport | None
    death: Death | None
    host_cause: HostCause | None
    wall: float


class _Channel:
    """One operation on the wire, from OPEN to CLOSE."""

    def __init__(self, capture: RunCapture | None, on_event: Callable[[RunEvent], None] | None) -> None:
        self.capture = capture
        self.on_event = on_event
        self.close: Frame | None = None
        self.attention = anyio.Event()
        self.credit = wire.WINDOW
        self.more_credit = anyio.Event()
        self.owed = 0

    def take(self, frame: Frame) -> int:
        """Handle a frame at once; returns how much credit to give back."""
        if frame.type is Type.CLOSE:
            self.close = frame
            self.attention.set()
            self.more_credit.set()
            return 0
        if frame.type is Type.CREDIT:
            self.credit += int.from_bytes(frame.payload[:4], "big")
            self.more_credit.set()
            return 0
        if self.capture is None:
            raise wire.WireError(f"{frame.type.name} on a channel that has no output")
        self._take_output(self.capture, frame)
        self.owed += len(frame.payload)
        if self.owed < _CREDIT_STEP:
            return 0
        owed, self.owed = self.owed, 0
        return owed

    def _take_output(self, capture: RunCapture, frame: Frame) -> None:
        if frame.type is Type.SIDE:
            capture.side.feed(frame.payload)
            return
        stream: Literal["stdout", "stderr"] = "stdout" if frame.type is Type.STDOUT else "stderr"
        capture.feed(stream, frame.payload)
        if capture.over:
            self.attention.set()
        elif self.on_event:
            self.on_event(OutputEvent(stream, frame.payload))


class Sandbox:
    """One started sandbox whose runner is ready. Used by one owner; runs are one at a time.

    `pump` must be running in some task group for anything here to make progress.
    """

    def __init__(self, container: Container, profile: Profile) -> None:
        self.container = container
        self.profile = profile
        self.started = time.monotonic()
        self.lost = anyio.Event()
        self.runner: dict[str, object] = {}
        self._channels: dict[int, _Channel] = {}
        self._numbers = count(1)
        self._sending = anyio.Lock()
        self._greeting = anyio.Event()
        self._ready = anyio.Event()
        self._destroyed = False

    @property
    def alive(self) -> bool:
        return not self.lost.is_set() and not self._destroyed

    # --- the wire

    async def pump(self) -> None:
        """Read the wire until it ends. Sets `lost` and wakes everybody who waits for an answer."""
        decoder = wire.Decoder()
        try:
            while True:
                for frame in decoder.feed(await self.container.stream.receive(256 * 1024)):
                    await self._take(frame)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass
        except wire.WireError:
            # Its runner is not ours any more: nothing it says from here on may be believed.
            with anyio.CancelScope(shield=True):
                await self.destroy()
        finally:
            self.lost.set()
            self._greeting.set()
            self._ready.set()
            for channel in self._channels.values():
                channel.attention.set()
                channel.more_credit.set()

    async def _take(self, frame: Frame) -> None:
        if frame.type is Type.HELLO:
            if frame.json().get("protocol") != wire.PROTOCOL_VERSION:
                raise wire.WireError("another protocol version")
            self._greeting.set()
        elif frame.type is Type.READY:
            self.runner = dict(frame.json())
            self._ready.set()
        elif channel := self._channels.get(frame.channel):
            owed = channel.take(frame)
            if owed:
                await self._send(wire.encode_credit(frame.channel, owed))

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                # Shielded: a frame cut by a cancellation would garble all that follow it.
                with anyio.CancelScope(shield=True), anyio.move_on_after(SEND_SECONDS) as scope:
                    await self.container.stream.send(data)
                if scope.cancelled_caught:
                    self.lost.set()  # a runner that reads nothing is frozen or gone
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            self.lost.set()

    async def greet(self) -> None:
        """Wait for the runner, hand over the set-up, wait until it is ready.

        Raises EngineUnavailable if it isn't in time or the sandbox ends first.
        """
        with anyio.move_on_after(HANDSHAKE_SECONDS):
            await self._greeting.wait()
            if self.alive:
                await self._send(
                    wire.encode_json(Type.SETUP, 0, {"preload": list(self.profile.preload)})
                )
                await self._ready.wait()
        if not (self.alive and self._ready.is_set()):
            death = await self.container.death()
            raise EngineUnavailable(
                f"a new sandbox of image '{self.profile.image}' did not become ready: {death.reason}",
                hint="run 'sandbox-server doctor' on the host",
            )

    # --- operations

    async def run(
        self, job: Job, capture: RunCapture, on_event: Callable[[RunEvent], None] | None = None
    ) -> Exit:
        """Run a job to its end. Its time begins when it is sent.

        Cancelling kills it before this returns. Never raises for what the program or the
        sandbox does: a sandbox that died is an `Exit` without a report.
        """
        number = next(self._numbers)
        channel = self._channels[number] = _Channel(capture, on_event)
        begin = time.monotonic()
        cause: HostCause | None = None
        try:
            await self._send(_open_run(number, job))
            async with anyio.create_task_group() as tasks:
                if job.stdin:
                    tasks.start_soon(self._feed, number, channel, job.stdin)
                with anyio.move_on_at(anyio.current_time() + job.wall - (time.monotonic() - begin)):
                    await channel.attention.wait()
                tasks.cancel_scope.cancel()
            if channel.close is None and self.alive:
                cause = "output" if capture.over else "wall"
                await self._kill(number, channel)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._kill(number, channel)
            raise
        finally:
            del self._channels[number]
        return await self._conclude(channel, cause, begin)

    async def _conclude(self, channel: _Channel, cause: HostCause | None, begin: float) -> Exit:
        wall = time.monotonic() - begin
        report = self._report(channel)
        if report is not None:
            if not report.alone:
                self.lost.set()
            return Exit(report, None, cause, wall)
        self.lost.set()
        try:
            death = await self.container.death()
        except EngineUnavailable as error:
            death = Death(None, False, error.message)
        return Exit(None, death, cause, wall)

    def _report(self, channel: _Channel) -> CloseReport | None:
        if channel.close is None:
            return None
        try:
            return CloseReport.model_validate_json(channel.close.payload)
        except ValidationError:
            return None

    async def _kill(self, number: int, channel: _Channel) -> None:
        """CANCEL, and if the runner does not prove in time that all is dead, destroy."""
        if channel.close is not None or not self.alive:
            return
        channel.attention = anyio.Event()
        with anyio.move_on_after(KILL_GRACE):
            await self._send(wire.encode(Type.CANCEL, number))
            while channel.close is None and self.alive:
                await channel.attention.wait()
                if channel.close is None and self.alive:
                    # Over its output still: what it wrote before it died is being drained.
                    channel.attention = anyio.Event()
        if channel.close is None:
            await self.destroy()

    async def _feed(self, number: int, channel: _Channel, data: bytes) -> None:
        view = memoryview(data)
        while view and channel.close is None and self.alive:
            if channel.credit <= 0:
                channel.more_credit = anyio.Event()
                await channel.more_credit.wait()
                continue
            piece = view[: min(channel.credit, wire.MAX_FROM_RUNNER)]
            channel.credit -= len(piece)
            view = view[len(piece) :]
            await self._send(wire.encode(Type.DATA, number, bytes(piece)))
        await self._send(wire.encode(Type.END, number))

    async def put(self, file: InputFile) -> None:
        """Write a file below /workspace.

        Raises LimitExceeded if it does not fit, InvalidRequest if the path can't be written,
        SandboxLost if the sandbox ended.
        """
        number = next(self._numbers)
        channel = self._channels[number] = _Channel(None, None)
        try:
            await self._send(wire.encode_json(Type.OPEN, number, {"op": "write", "path": file.path}))
            await self._feed(number, channel, file.content)
            with anyio.move_on_after(HANDSHAKE_SECONDS):
                await channel.attention.wait()
            report = _PutReport.model_validate_json(channel.close.payload) if channel.close else None
        except ValidationError:
            report = None
        finally:
            del self._channels[number]
        if report is None:
            self.lost.set()
            raise SandboxLost("the sandbox was lost while a file was put into it", hint="nothing was run")
        if not report.ok:
            _raise_put_error(file, report)

    async def destroy(self) -> None:
        """Destroy the container, shielded and bounded. Raises nothing: what the engine can't
        remove now, its reaper removes later."""
        self._destroyed = True
        with anyio.CancelScope(shield=True), anyio.move_on_after(DESTROY_SECONDS):
            try:
                await self.container.destroy()
            except EngineUnavailable:
                pass
        self.lost.set()


async def open_sandbox(
    engine: Engine, profile: Profile, *, deadline: float, run_pump: Callable[[Sandbox], object]
) -> Sandbox:
    """Start a container and shake hands with its runner. `run_pump` starts `Sandbox.pump` in a
    task group that outlives the sandbox. Leaves nothing behind when it fails or is cancelled.

    Raises EngineUnavailable or ConfigError.
    """
    container = await engine.start(profile, deadline=deadline)
    sandbox = Sandbox(container, profile)
    try:
        run_pump(sandbox)
        await sandbox.greet()
    except BaseException:
        await sandbox.destroy()
        raise
    return sandbox


def _open_run(number: int, job: Job) -> bytes:
    return wire.encode_json(
        Type.OPEN,
        number,
        {
            "op": "run",
            "mode": job.mode,
            "file": job.file,
            "argv": list(job.argv),
            "code": job.code,
            "args": list(job.args),
            "stdin": bool(job.stdin),
            "keep": job.keep,
            "cpu": job.cpu,
        },
    )


def _raise_put_error(file: InputFile, report: _PutReport) -> None:
    name = repr(file.path)
    if report.error in ("ENOSPC", "EFBIG", "EDQUOT"):
        raise LimitExceeded(
            f"file {name} ({len(file.content)} bytes) does not fit into the workspace",
            hint="nothing was run; send less, or ask the operator for a larger workspace",
        )
    raise InvalidRequest(
        f"file {name} can't be written: {report.message}", hint="nothing was run; use another path"
    )
