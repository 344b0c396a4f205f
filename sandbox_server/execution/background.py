"""Background processes of a session, by their caller. All work is done in the sandbox, by its runner
(`images/runner/_background.py`), which also keeps their last output: the host holds nothing of them.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from signal import Signals
from typing import Annotated, Any

import anyio
from pydantic import Field

from sandbox_server import wire
from sandbox_server.errors import (
    Busy,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution import process_models as models
from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.desk import SessionDesk
from sandbox_server.execution.egress import Outlet
from sandbox_server.execution.file_desk import FileDesk
from sandbox_server.execution.file_reports import Report, Size, meddled, parse
from sandbox_server.execution.outcomes import signal_name
from sandbox_server.execution.paths import readable_path
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session
from sandbox_server.execution.session_rules import check_right
from sandbox_server.execution.slots import Kind
from sandbox_server.execution.transfers import Transfer
from sandbox_server.execution.way_out import WaysOut
from sandbox_server.text import make_visible

OnUsed = Callable[[str, object, float], None]
"""A principal, who it is (`Caller.who`), and CPU seconds that its background processes have used."""

_log = logging.getLogger(__name__)

SECONDS = 10.0
END_SECONDS = 2.0
MOST = 16
"""In one session at once; the runner's number, for the message."""

_REFUSALS: dict[str, SandboxServerError] = {
    "ENOENT": NotFound(
        "there is no such process in this session",
        hint="list shows those that there are; a reset of the session ends all",
    ),
    "ESRCH": InvalidRequest("this process has ended", hint="poll tells how"),
    "EPIPE": InvalidRequest("the stdin of this process is closed", hint="nothing was written"),
    "EUSERS": LimitExceeded(
        f"{MOST} background processes run in this session, as many as may", hint="end one with signal KILL"
    ),
    "EMFILE": LimitExceeded(
        "the session's limit on open files leaves no room for another background process",
        hint="end one with signal KILL; if none runs, the operator's limit is too low for any",
    ),
    "ENOSYS": InvalidRequest(
        "this sandbox's runtime can't keep background processes",
        hint="start it within a run instead; gVisor needs a release with subreapers for them",
    ),
    "ECANCELED": LimitExceeded(
        "the process was ended before it had started", hint="what runs in the session may hold its memory"
    ),
}


class ViewReport(Report):
    id: Annotated[str, Field(pattern=r"^p[0-9]{1,9}-[0-9a-f]{4}$")]
    command: Annotated[str, Field(max_length=200)]
    running: bool
    exit_code: Annotated[int, Field(ge=0, le=255)] | None
    signal: Annotated[int, Field(ge=1, le=64)] | None
    oom: bool
    age: Annotated[float, Field(ge=0)]
    written: Size
    stdin: Size | None

    def view(self) -> models.ProcessView:
        return models.ProcessView(
            self.id,
            make_visible(self.command),
            self.running,
            self.exit_code,
            signal_name(self.signal),
            self.oom,
            self.age,
            self.written,
            self.stdin,
        )


class Told(Report):
    cpu_us: Size


class OneReport(Told):
    process: ViewReport


class AllReport(Told):
    processes: Annotated[list[ViewReport], Field(max_length=64)]


class PollReport(OneReport):
    stdout: Size
    stderr: Size
    missed: Size
    cursor: Size


class ProcessDesk:
    """The `ProcessOperations` of a manager. Waits neither for the code that runs in a session nor for calls
    that want to run some."""

    def __init__(
        self, sessions: SessionDesk, files: FileDesk, ways_out: WaysOut, used: OnUsed = lambda *told: None
    ) -> None:
        self._sessions = sessions
        self._used = used
        self._files = files
        self._ways_out = ways_out

    async def perform(
        self,
        operation: models.ProcessOperation,
        *,
        caller: Caller,
        session: str | None = None,
        on_event: OnEvent,
    ) -> models.ProcessAnswer:
        self._check(operation, caller, session)
        with self._sessions.other(caller):
            return await self._perform(operation, caller, session, on_event)

    async def _perform(
        self, operation: models.ProcessOperation, caller: Caller, session: str | None, on_event: OnEvent
    ) -> models.ProcessAnswer:
        async with self._files.lent(caller, session, on_event) as own:
            sandbox = await self._sandbox(operation, own, caller, on_event)
            self._sessions.check_current(caller)
            own.used = time.monotonic()
            try:
                outlet = None
                if isinstance(operation, models.StartProcess):
                    outlet = self._ways_out.of(sandbox, own.egress, own.principal, own.who)
                    sandbox.meter.charge = partial(self._used, own.principal, own.who)
                views, output = await _Processes(sandbox, outlet).perform(operation)
            finally:
                own.used = time.monotonic()
        return models.ProcessAnswer(views, output, own.info(*own.tell()))

    async def measure(self) -> None:
        """Charge what background processes have used since somebody last looked at them."""
        async with anyio.create_task_group() as tasks:
            for session in self._sessions.registry.all():
                if session.sandbox is not None and session.sandbox.meter.active:
                    tasks.start_soon(self._measure, session.sandbox)

    async def _measure(self, sandbox: Sandbox) -> None:
        try:
            await _Processes(sandbox).perform(models.ListProcesses())
        except SandboxServerError:
            pass  # one that dies charges for itself
        except Exception:
            _log.exception("the CPU time of background processes could not be read")

    @staticmethod
    def _check(operation: models.ProcessOperation, caller: Caller, handle: str | None) -> None:
        made = isinstance(operation, models.StartProcess)
        if handle is None and caller.connection is None and not made:
            raise InvalidRequest(
                "session: required, for this connection has no session of its own",
                hint="start tells the session that it has made",
            )

    async def _sandbox(
        self, operation: models.ProcessOperation, session: Session, caller: Caller, on_event: OnEvent
    ) -> Sandbox:
        if isinstance(operation, models.StartProcess | models.WriteProcess):
            # What is written to an interpreter is code, too.
            check_right(session, self._sessions.rights(caller))
        if isinstance(operation, models.StartProcess):
            return await self._files.sandbox_of(session, caller, on_event)
        if not session.lock.locked():
            self._sessions.drop_if_over(session)
        if session.sandbox is None:
            why = session.loss or "nothing was run in it yet"
            raise NotFound(f"this session has no processes: {why}", hint="start one")
        return session.sandbox


class _Processes:
    """Those of one sandbox. `outlet`: where the connections of one that is started go."""

    def __init__(self, sandbox: Sandbox, outlet: Outlet | None = None) -> None:
        self._sandbox = sandbox
        self._outlet = outlet

    async def perform(
        self, operation: models.ProcessOperation
    ) -> tuple[tuple[models.ProcessView, ...], models.ProcessOutput | None]:
        match operation:
            case models.ListProcesses():
                listed = self._sandbox.meter.running
                report = parse(AllReport, await self._ask("list"))
                return self._read(report.cpu_us, [each.view() for each in report.processes], listed), None
            case models.StartProcess():
                return await self._start(operation)
            case models.PollProcess(process=process):
                return await self._poll(process, operation.wanted)
            case models.WriteProcess(process=process):
                data = base64.b64encode(operation.data).decode("ascii")
                await self._ask("write", id=process, data=data, close=operation.close)
                return await self._told(process, operation.wanted)
            case models.SignalProcess(process=process):
                await self._ask("signal", id=process, number=int(Signals[f"SIG{operation.signal}"]))
                return await self._told(process, operation.wanted, until="end")

    async def _start(
        self, operation: models.StartProcess
    ) -> tuple[tuple[models.ProcessView, ...], models.ProcessOutput]:
        """One whose caller is gone before the answer is ended: nobody was told that it is there."""
        start = Transfer(await self._start_request(operation))
        try:
            started = parse(OneReport, await self._carry_out(start, SECONDS))
            self._read(started.cpu_us, [started.process.view()])
            return await self._told(started.process.id, operation.wanted)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._undo(start)
            raise

    async def _undo(self, start: Transfer) -> None:
        """The runner may have started it just before it heard that nobody wants it any more."""
        try:
            if start.close is not None and start.close.json().get("ok") is True:
                process = parse(OneReport, start.close.json()).process.id
                await self._ask("signal", id=process, number=9)
                await self._told(process, models.Wanted(wait=END_SECONDS), until="end")
        except wire.WireError:
            await self._sandbox.destroy()
        except SandboxServerError as error:
            _log.info("a process that nobody wants any more: %s", error.message)

    async def _start_request(self, operation: models.StartProcess) -> dict[str, Any]:
        cwd, environment = readable_path(operation.cwd), dict(operation.env)
        egress = None
        if self._outlet is not None:
            tunnels = await self._sandbox.way_out.open(self._outlet, self._sandbox, lasting=True)
            egress = {"tunnels": tunnels, "env": dict(self._outlet.environment)}
        request = {"op": "process", "do": "start", "command": list(operation.command)}
        return {**request, "cwd": cwd, "env": environment, "egress": egress}

    def _read(
        self, cpu_us: int, views: list[models.ProcessView], listed: frozenset[str] = frozenset()
    ) -> tuple[models.ProcessView, ...]:
        self._sandbox.meter.read(cpu_us, views, listed)
        return tuple(views)

    async def _told(
        self, process: str, wanted: models.Wanted, until: str = "output"
    ) -> tuple[tuple[models.ProcessView, ...], models.ProcessOutput]:
        """After something was done: it would be wrong to call that refused because as many wait as may."""
        if not self._sandbox.slots.may_wait:
            wanted = replace(wanted, wait=0.0)
        return await self._poll(process, wanted, until)

    async def _poll(
        self, process: str, wanted: models.Wanted, until: str = "output"
    ) -> tuple[tuple[models.ProcessView, ...], models.ProcessOutput]:
        data = bytearray()

        async def keep(piece: bytes) -> None:
            data.extend(piece)

        request = {"op": "process", "do": "poll", "id": process, "for": until}
        transfer = Transfer(
            {**request, "cursor": wanted.cursor, "limit": wanted.limit},
            limit=wanted.limit,
            sink=keep,
            source=_after(wanted.wait),
        )
        kind: Kind = "wait" if wanted.wait > 0 else "quick"
        report = parse(PollReport, await self._carry_out(transfer, wanted.wait + SECONDS, kind))
        if report.stdout + report.stderr != len(data):
            raise meddled()
        stdout, stderr = bytes(data[: report.stdout]), bytes(data[report.stdout :])
        output = models.ProcessOutput(stdout, stderr, report.cursor, report.missed)
        return self._read(report.cpu_us, [report.process.view()]), output

    async def _ask(self, do: str, **options: Any) -> dict[str, Any]:
        return await self._carry_out(Transfer({"op": "process", "do": do, **options}), SECONDS)

    async def _carry_out(self, transfer: Transfer, seconds: float, kind: Kind = "quick") -> dict[str, Any]:
        report = await self._sandbox.transfer(transfer, seconds, kind=kind)
        if report is None and transfer.over:
            raise meddled()
        if report is None:
            raise Busy(
                "the sandbox did not answer in time", retry_after=1.0, hint="poll tells what became of it"
            )
        if report.get("ok") is not True:
            raise await self._refusal(transfer.request["do"], str(report.get("error")))
        return report

    async def _refusal(self, do: str, error: str) -> SandboxServerError:
        if error == "EAGAIN" and do == "write":
            return Busy(
                "the process does not read its stdin, and what waits for it is as much as may",
                retry_after=1.0,
                hint="nothing of this was written; write it again once the process has read",
            )
        if error == "EAGAIN":
            return LimitExceeded(
                "the session has as many processes as it may have",
                hint="end some with signal KILL, or create a session with a higher limit",
            )
        if error == "EBUSY":
            await self._sandbox.destroy()
            return SandboxLost(
                "processes could not be ended, so the sandbox was destroyed", hint="nothing of it survives"
            )
        return _REFUSALS.get(error) or meddled()


async def _after(seconds: float) -> AsyncIterator[bytes]:
    """A source that ends after a while without a byte: its end tells the runner to answer now."""
    if seconds > 0:
        await anyio.sleep(seconds)
    return
    yield b""
