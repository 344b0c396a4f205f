"""The orchestrator: acquire, run, collect, destroy. The one implementation of `Executor`."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from sandbox_server.engines.base import Engine
from sandbox_server.errors import (
    Busy,
    EngineUnavailable,
    InvalidRequest,
    LimitExceeded,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution.api import Caps, OnEvent
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.models import (
    Isolation,
    Queued,
    RunLimits,
    RunRequest,
    RunResult,
    SessionInfo,
    Timings,
    Usage,
)
from sandbox_server.execution.outcomes import judge
from sandbox_server.execution.paths import workspace_path
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.sandbox import Exit, Job, Sandbox
from sandbox_server.execution.sessions import Session, Sessions

_log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30.0
_ONE_SHOT = "one-shot"
_FRESH_TRIES = 3


@dataclass
class _Clock:
    """The stages of a call, by the monotonic clock."""

    begin: float
    acquired: float = 0.0
    warm: bool = False
    queued: float = 0.0


class Manager:
    """Runs requests in sandboxes of an engine. An async context manager: entering starts the
    pools and never fails because the engine is down; leaving destroys every sandbox."""

    def __init__(self, engine: Engine, grants: Mapping[str, Grant], sizing: Sizing) -> None:
        self._engine = engine
        self._grants = dict(grants)
        self._sizing = sizing
        profiles = dict.fromkeys(grant.profile for grant in grants.values())
        self._pools = Pools(engine, profiles, sizing)
        self._sessions = Sessions(sizing)
        self._stack = AsyncExitStack()
        self._swept = False

    # --- life

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(self._background())
        self._pools.start(tasks)
        tasks.start_soon(self._housekeeping)
        return self

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[TaskGroup]:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True), anyio.move_on_after(SHUTDOWN_SECONDS):
                    await self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _leave(self) -> None:
        try:
            await self._engine.aclose()
        except SandboxServerError as error:
            _log.error("sandboxes may be left for the next start to sweep: %s", error)

    async def _housekeeping(self) -> None:
        """Sweep what an earlier boot left, then reap and expire for ever."""
        while True:
            try:
                if not self._swept:
                    removed = await self._engine.sweep()
                    self._swept = True
                    if removed:
                        _log.warning("removed %d sandboxes that an earlier run of this server left", removed)
                reaped = await self._engine.reap(now=time.time())
                if reaped:
                    _log.error("reaped %d sandboxes that nobody owned", reaped)
            except EngineUnavailable as error:
                _log.warning("%s", error)
            except Exception:
                _log.exception("housekeeping failed")
            for sandbox in self._sessions.expire():
                self._pools.discard(sandbox)
            await anyio.sleep(self._sizing.reap_every if self._swept else 2.0)

    # --- the Executor's door

    def languages(self) -> tuple[str, ...]:
        return tuple(self._grants)

    def caps(self) -> Caps:
        grants = list(self._grants.values())
        return Caps(
            max_wall=max(grant.ceiling.wall for grant in grants),
            default_wall=min(grant.defaults.wall for grant in grants),
            max_output=max(grant.ceiling.output for grant in grants),
            default_output=min(grant.defaults.output for grant in grants),
            max_files_bytes=max(grant.profile.limits.workspace for grant in grants),
        )

    async def close_connection(self, connection: str) -> None:
        for sandbox in self._sessions.close(connection):
            self._pools.discard(sandbox)

    async def health(self) -> dict[str, object]:
        """The state of the engine and the pools; never raises, never waits for the engine."""
        error = self._pools.last_error
        return {
            "engine": "ok" if error is None else error.code,
            **({"engine_message": error.message} if error else {}),
            "sessions": len(self._sessions),
            **self._pools.counts(),
        }

    async def run(self, request: RunRequest, *, connection: str | None, on_event: OnEvent) -> RunResult:
        clock = _Clock(time.monotonic())
        grant = self._grant(request)
        limits = _effective(request.limits, grant)
        files = tuple(replace(file, path=workspace_path(file.path)) for file in request.files)
        request = replace(request, limits=limits, files=files)
        if connection is None:
            return await self._run_once(request, grant, clock, on_event)
        return await self._run_in_session(request, grant, clock, connection, on_event)

    def _grant(self, request: RunRequest) -> Grant:
        grant = self._grants.get(request.language)
        if grant is None:
            raise InvalidRequest(
                f"unknown language '{request.language[:40]}'",
                hint=f"one of: {', '.join(self._grants)}",
            )
        if not request.code.strip():
            raise InvalidRequest("code is empty", hint="send the program to run")
        return grant

    # --- one-shot

    async def _run_once(
        self, request: RunRequest, grant: Grant, clock: _Clock, on_event: OnEvent
    ) -> RunResult:
        sandbox = await self._prepared(request, grant, _ONE_SHOT, clock, on_event)
        try:
            capture = _capture_for(request.limits)
            exit = await sandbox.run(_job(request, grant, keep=False), capture, on_event)
        finally:
            self._pools.discard(sandbox)
        return _result(exit, capture, grant, clock, SessionInfo(None, "none"))

    async def _prepared(
        self, request: RunRequest, grant: Grant, principal: str, clock: _Clock, on_event: OnEvent
    ) -> Sandbox:
        """A fresh sandbox with the request's files in it.

        One that dies before the code was sent has run nothing: another is taken, a few times.
        """
        for attempt in range(_FRESH_TRIES):
            sandbox = await self._acquire(grant, principal, clock, on_event)
            try:
                for file in request.files:
                    await sandbox.put(file)
                return sandbox
            except SandboxLost:
                self._pools.discard(sandbox)
                if attempt == _FRESH_TRIES - 1:
                    raise
            except BaseException:
                self._pools.discard(sandbox)
                raise
        raise AssertionError("unreachable")

    async def _acquire(self, grant: Grant, principal: str, clock: _Clock, on_event: OnEvent) -> Sandbox:
        def tell(position: int) -> None:
            on_event(Queued(position))

        begin = time.monotonic()
        sandbox, clock.warm = await self._pools.acquire(grant.profile, principal, tell)
        clock.acquired += time.monotonic() - begin
        return sandbox

    # --- sessions

    async def _run_in_session(
        self, request: RunRequest, grant: Grant, clock: _Clock, connection: str, on_event: OnEvent
    ) -> RunResult:
        session = self._sessions.of(connection, grant.profile)
        async with session.lock:
            clock.queued = time.monotonic() - clock.begin
            sandbox = await self._session_sandbox(session, request, grant, connection, clock, on_event)
            keep = grant.language.stateful
            capture = _capture_for(request.limits)
            try:
                exit = await sandbox.run(_job(request, grant, keep=keep), capture, on_event)
            except BaseException:
                self._interrupted(session, sandbox, keep)
                raise
            session.used = time.monotonic()
            if not sandbox.alive:
                self._pools.discard(sandbox)
                session.sandbox = None
            state, note = session.conclude(exit.report if sandbox.alive else None, keep)
            if not sandbox.alive:
                session.untold = None
            return _result(exit, capture, grant, clock, self._sessions.info(session, state, note))

    def _interrupted(self, session: Session, sandbox: Sandbox, keep: bool) -> None:
        """A call was cancelled: nobody gets its result, so the next one tells what became of the state."""
        session.used = time.monotonic()
        if not sandbox.alive:
            session.lose("the sandbox was destroyed when a call was cancelled")
            self._pools.discard(sandbox)
        elif keep:
            session.cells = 0
            session.untold = (
                "reset",
                "a call was cancelled and took the interpreter with it; variables are gone, files are kept",
            )

    async def _session_sandbox(
        self,
        session: Session,
        request: RunRequest,
        grant: Grant,
        connection: str,
        clock: _Clock,
        on_event: OnEvent,
    ) -> Sandbox:
        """The session's sandbox, or a fresh one, with the request's files in it."""
        if session.sandbox and (not session.sandbox.alive or session.expires_in(self._sizing) <= 0):
            died = not session.sandbox.alive
            gone = session.lose("the sandbox had died" if died else "the session had expired")
            if gone:
                self._pools.discard(gone)
        if session.sandbox is None:
            if self._sessions.full:
                raise Busy(
                    f"all {self._sizing.sessions} sessions are in use",
                    retry_after=30.0,
                    hint="nothing was run; try again when another client has finished",
                )
            session.adopt(await self._prepared(request, grant, connection, clock, on_event))
            assert session.sandbox is not None
            return session.sandbox
        clock.warm = True
        for file in request.files:
            await session.sandbox.put(file)
        return session.sandbox


def _capture_for(limits: RunLimits) -> RunCapture:
    return RunCapture(limits.output, limits.output_total, limits.display_total)


def _effective(asked: RunLimits, grant: Grant) -> RunLimits:
    """What the caller may choose (`wall`, `output`) within the ceiling; the rest is the policy's."""
    for name, value, most in (
        ("timeout", asked.wall, grant.ceiling.wall),
        ("max_output", asked.output, grant.ceiling.output),
    ):
        if value > most:
            raise LimitExceeded(
                f"{name} {value:g} is above the limit for {grant.language.name}, {most:g}",
                hint=f"ask for {most:g} or less",
            )
    # A longer run may use more CPU time, in the proportion that the policy has set.
    share = max(1.0, asked.wall / grant.defaults.wall)
    cpu = min(grant.defaults.cpu * share, grant.ceiling.cpu)
    return replace(grant.defaults, wall=asked.wall, output=asked.output, cpu=cpu)


def _job(request: RunRequest, grant: Grant, *, keep: bool) -> Job:
    language = grant.language
    return Job(
        mode=language.mode,
        file=language.file,
        argv=language.argv,
        code=request.code,
        args=request.args,
        stdin=request.stdin,
        keep=keep,
        wall=request.limits.wall,
        cpu=request.limits.cpu,
    )


def _result(
    exit: Exit, capture: RunCapture, grant: Grant, clock: _Clock, session: SessionInfo
) -> RunResult:
    verdict = judge(exit)
    report = exit.report
    return RunResult(
        outcome=verdict.outcome,
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        limit=verdict.limit,
        stdout=capture.finish("stdout"),
        stderr=capture.finish("stderr"),
        value=capture.side.value,
        displays=tuple(capture.side.displays),
        displays_omitted=capture.side.omitted,
        usage=Usage(
            wall=exit.wall,
            cpu=report.cpu_us / 1e6 if report and report.cpu_us is not None else None,
            peak_memory=report.peak_memory if report else None,
        ),
        timings=Timings(
            queue=clock.queued,
            acquire=clock.acquired,
            run=exit.wall,
            total=time.monotonic() - clock.begin,
            warm=clock.warm,
        ),
        session=session,
        isolation=Isolation(
            grant.profile.runtime,
            "user-space-kernel" if grant.profile.runtime == "runsc" else "container",
        ),
    )
