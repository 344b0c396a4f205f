"""A sandbox as the manager holds it: what can be done in it, over the link to its runner."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
from pydantic import ValidationError

from sandbox_server import wire
from sandbox_server.engines.base import Container
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import LimitExceeded, SandboxLost
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.channel import Channel
from sandbox_server.execution.egress import Outlet
from sandbox_server.execution.jobs import (
    Exit,
    HostCause,
    Job,
    PutReport,
    ResetReport,
    close_report,
    encode_run,
    put_error,
)
from sandbox_server.execution.link import Link
from sandbox_server.execution.metering import Meter
from sandbox_server.execution.models import InputFile, RunEvent
from sandbox_server.execution.slots import Kind, Slots
from sandbox_server.execution.transfers import Transfer, whole
from sandbox_server.wire import Type

_log = logging.getLogger(__name__)

PUT_SECONDS = 30.0
RESET_SECONDS = 5.0
SCRUB_SECONDS = 3.0  # then destroying it is quicker
LAST_SECONDS = 0.5  # for a runner to say what its processes have used, before it is destroyed
INTERRUPT_GRACE = 0.06  # for a cell to stop, so that its interpreter's state is kept
KILL_GRACE = 1.0  # for the runner to kill a run, before the whole container is destroyed


class Sandbox(Link):
    """One started sandbox whose runner is ready. Used by one owner; runs are one at a time."""

    def __init__(self, container: Container, profile: Profile) -> None:
        super().__init__(container, profile)
        self.begun = self.started = time.monotonic()
        self.principal: str | None = None  # whose runs it is kept for, if it is
        self.uses = 0  # runs that it was scrubbed after
        self.clean = False
        """Its runner has proved that nothing is left of any run, and nothing has been done in it since."""
        self.slots = Slots()
        self.meter = Meter(profile.limits.cpus)
        self._numbers = count(1)

    def _lose(self, why: str = "") -> None:
        super()._lose(why)
        self.meter.end()

    def _open(
        self, capture: RunCapture | None = None, on_event: Callable[[RunEvent], None] | None = None
    ) -> tuple[int, Channel]:
        number, channel = next(self._numbers), Channel(capture, on_event)
        self._channels[number] = channel
        if not self.alive:
            channel.wake()  # whoever wakes the channels of a lost sandbox has been here already
        return number, channel

    async def run(
        self,
        job: Job,
        capture: RunCapture,
        on_event: Callable[[RunEvent], None] | None = None,
        outlet: Outlet | None = None,
    ) -> Exit:
        """Run a job to its end. Its time begins when it is sent. `outlet`: where its connections go.

        Cancelling kills it before this returns. Never raises for what the program or the
        sandbox does: a sandbox that died is an `Exit` without a report. Raises LimitExceeded
        for a job that is too large to send.
        """
        tunnels = await self.way_out.open(outlet, self) if outlet else 0
        try:
            message = encode_run(job, tunnels=tunnels, hints=outlet.environment if outlet else None)
        except LimitExceeded:
            self.way_out.rest()
            raise
        self.clean = False
        number, channel = self._open(capture, on_event)
        begin = time.monotonic()
        cause: HostCause | None = None
        sent = False
        try:
            await self._send(wire.encode(Type.OPEN, number, message))
            sent = True
            async with anyio.create_task_group() as tasks:
                if job.stdin:
                    tasks.start_soon(channel.feed, number, job.stdin, self._send)
                with anyio.move_on_at(anyio.current_time() + job.wall - (time.monotonic() - begin)):
                    await channel.attention.wait()
                tasks.cancel_scope.cancel()
            if capture.over:
                cause = "output"
            elif channel.close is None and self.alive:
                cause = "wall"
            await self._stop(number, channel, gently=job.keep and cause == "wall")
        except BaseException:
            channel.on_event = None
            if sent:
                with anyio.CancelScope(shield=True):
                    await self._stop(number, channel, gently=job.keep)
            raise
        finally:
            self.way_out.rest()
            del self._channels[number]
        return (await self._conclude(channel, cause, begin)).naming(job.files_out)

    async def _conclude(self, channel: Channel, cause: HostCause | None, begin: float) -> Exit:
        wall = time.monotonic() - begin
        report = close_report(channel.close.payload) if channel.close else None
        if report is None:
            if channel.close is not None:
                self._lose("its runner broke the protocol")
            return Exit(None, await self._death(), cause, wall)
        self.clean = report.clean and report.alone
        if not report.alone:
            self._lose("processes of a run could not be ended")
        return Exit(report, None, cause, wall)

    async def _stop(self, number: int, channel: Channel, *, gently: bool) -> None:
        """CANCEL, and if the runner does not prove in time that all is dead, destroy. `gently`: INTERRUPT
        before that, which leaves a kept interpreter its state if its cell ends in time."""
        if gently:
            await self._end(number, channel, Type.INTERRUPT, INTERRUPT_GRACE)
        await self._end(number, channel, Type.CANCEL, KILL_GRACE)
        if channel.close is None and self.alive:
            _log.error("a sandbox did not end a run in %g s and is destroyed", KILL_GRACE)
            await self.destroy()

    async def _end(self, number: int, channel: Channel, how: Type, seconds: float) -> None:
        """Ask the runner to end a run, and wait until it has or time is up."""
        if channel.close is not None or not self.alive:
            return
        channel.attention = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._send(wire.encode(how, number))
            # It may be over its output still: what it wrote before it died is being drained.
            while channel.close is None and self.alive:
                await channel.attention.wait()
                channel.attention = anyio.Event()

    async def put(self, file: InputFile) -> None:
        """Write a file below /workspace. Cancelling stops the write; a part of the file may stay.

        Raises LimitExceeded if it does not fit, InvalidRequest if the path can't be written,
        SandboxLost if the sandbox ended.
        """
        request = {"op": "write", "path": file.path}
        try:
            report = await self.transfer(Transfer(request, source=whole(file.content)), PUT_SECONDS)
            written = PutReport.model_validate(report or {})
        except (SandboxLost, ValidationError):
            self._lose("its runner did not write a file")
            raise SandboxLost(
                "the sandbox was lost while a file was put into it", hint="nothing was run"
            ) from None
        if not written.ok:
            raise put_error(file, written)

    async def transfer(
        self, transfer: Transfer, seconds: float, *, kind: Kind = "file"
    ) -> dict[str, Any] | None:
        """Carry out an operation; returns its report, or None if it was ended, because it took
        longer than `seconds` or gave more than it may. A run may be going on meanwhile.
        Cancelling ends it. Raises SandboxLost if the sandbox ended, Busy for one "wait" too many, and what
        its source or sink raises.
        """
        self.clean = False
        async with self.slots.taken(kind):
            number = next(self._numbers)
            self._channels[number] = transfer
            try:
                with anyio.move_on_after(seconds if self.alive else 0):
                    await transfer.drive(number, self._send)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end_transfer(number, transfer)
        if transfer.close is None and (transfer.sent or not self.alive):
            reason = (await self._death()).reason
            raise SandboxLost(f"the sandbox was lost during a file operation: {reason}")
        try:
            return None if transfer.stopped or transfer.close is None else transfer.close.json()
        except wire.WireError:
            self._lose("its runner broke the protocol")
            await self.destroy()
            raise SandboxLost("the sandbox broke the protocol and was destroyed") from None

    async def _end_transfer(self, number: int, transfer: Transfer) -> None:
        """See that nothing of it goes on: without its CLOSE, CANCEL and, if need be, the sandbox's end.
        Of what was not sent the runner knows nothing, and would answer nothing."""
        if not transfer.sent:
            del self._channels[number]
            return
        if transfer.close is None and self.alive:
            transfer.stopped = True
            with anyio.move_on_after(KILL_GRACE):
                await self._send(wire.encode(Type.CANCEL, number))
                await transfer.closed()
        del self._channels[number]
        if transfer.close is None and self.alive:
            self._lose("its runner did not end a file operation")
            await self.destroy()

    async def reset(self) -> None:
        """End every process of the session, the kept interpreter too; files stay.

        Raises SandboxLost if the runner does not prove that nothing is left.
        """
        report = await self._ask("reset", RESET_SECONDS)
        if not report.ok:
            self._lose("its processes could not be ended")
            raise SandboxLost(
                "the sandbox was lost while it was reset", hint="create another session; its files are gone"
            )
        self.way_out.shut()
        self._read_last(report)

    async def settle(self) -> None:
        """Before it is destroyed, read what its processes have used since somebody last did."""
        if self.alive and self.meter.active:
            self._read_last(await self._ask("ping", LAST_SECONDS))

    def _read_last(self, report: ResetReport) -> None:
        if report.cpu_us is not None:
            self.meter.read(report.cpu_us, [])
        self.meter.end()

    async def scrub(self) -> bool:
        """Make it as it was before its first run. Whether that is proved: if not, nobody may use it again."""
        report = await self._ask("scrub", SCRUB_SECONDS)
        if report.ok and self.alive:
            return True
        _log.info("a sandbox is not used again: %s", report.problem or "no answer in time")
        self._lose("it was not clean after a run")
        return False

    async def _ask(self, operation: str, seconds: float) -> ResetReport:
        number, channel = self._open()
        try:
            with anyio.move_on_after(seconds):
                await self._send(wire.encode_json(Type.OPEN, number, {"op": operation}))
                await channel.attention.wait()
        finally:
            del self._channels[number]
        try:
            return ResetReport.model_validate_json(channel.close.payload if channel.close else b"{}")
        except ValidationError:
            return ResetReport(ok=False)
