"""The orchestrator: acquire, run, collect, destroy. The one implementation of `Executor`."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from sandbox_server.engines.base import Engine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import (
    ConfigError,
    EngineUnavailable,
    InvalidRequest,
    SandboxLost,
    SandboxServerError,
)
from sandbox_server.execution.api import Caller, Caps, OnEvent
from sandbox_server.execution.background import ProcessDesk
from sandbox_server.execution.desk import SessionDesk, in_turn
from sandbox_server.execution.egress import Egress, EgressAccess, Outlet
from sandbox_server.execution.file_desk import FileDesk
from sandbox_server.execution.file_models import FileAnswer, FileOperation
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.leftovers import leftovers, session_files, with_leftovers
from sandbox_server.execution.models import (
    Content,
    Page,
    Queued,
    Resource,
    RunEvent,
    RunRequest,
    RunResult,
    SessionInfo,
)
from sandbox_server.execution.paths import workspace_path
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.quota import Underway
from sandbox_server.execution.resources import Resources
from sandbox_server.execution.runs import (
    Clock,
    capture_for,
    check_reuse,
    effective_limits,
    job_for,
    result_of,
)
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session
from sandbox_server.execution.store import Store

_log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30.0
_FRESH_TRIES = 3


class Manager:
    """Runs requests in sandboxes of an engine. An async context manager: entering starts the
    pools and never fails because the engine is down; leaving destroys every sandbox.

    `store` keeps what runs leave behind; the manager enters it. None: a temporary one."""

    def __init__(
        self,
        engine: Engine,
        grants: Mapping[str, Grant],
        sizing: Sizing,
        store: Store | None = None,
        egress: Egress | None = None,
    ) -> None:
        self._engine = engine
        self._grants = dict(grants)
        self._sizing = sizing
        profiles = dict.fromkeys(grant.profile for grant in grants.values())
        longest = max((grant.ceiling.wall for grant in grants.values()), default=0.0)
        self._pools = Pools(engine, profiles, sizing, longest_run=longest)
        self._underway = Underway(sizing.runs_per_principal)
        self._desk = SessionDesk(self._pools, self._grants, sizing, self._underway)
        self._files = FileDesk(self._desk, self._grants)
        self._processes = ProcessDesk(self._desk, self._files)
        self._store = store or Store(total=sizing.store, ttl=sizing.store_ttl)
        self._resources = Resources(self._store, self._desk.registry)
        self._stack = AsyncExitStack()
        self._swept = False
        self._egress = egress

    # --- life

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._store)
        tasks = await self._stack.enter_async_context(self._background())
        self._pools.start(tasks)
        tasks.start_soon(self._housekeeping)
        tasks.start_soon(self._expire_forever)
        return self

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[TaskGroup]:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            finally:
                self._pools.stop()
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
        except Exception:
            _log.exception("sandboxes may be left for the next start to sweep")

    async def _housekeeping(self) -> None:
        """Sweep what earlier boots left and reap, for ever: an engine may finish a container that
        a killed server had asked for after the next server's first sweep."""
        while True:
            try:
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
            await anyio.sleep(self._sizing.reap_every if self._swept else 2.0)

    async def _expire_forever(self) -> None:
        """Apart from the housekeeping: an engine that hangs must not keep sessions alive."""
        while True:
            self._expire()
            await self._store.expire()
            await anyio.sleep(self._sizing.reap_every)

    def _expire(self) -> None:
        self._desk.expire()
        self._pools.retire()

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
            reuse=any(grant.reuse for grant in grants),
        )

    @property
    def sessions(self) -> SessionDesk:
        return self._desk

    @property
    def processes(self) -> ProcessDesk:
        return self._processes

    async def close_connection(self, connection: str) -> None:
        for sandbox in self._desk.registry.close(connection):
            self._pools.discard(sandbox)

    def list_resources(self, *, caller: Caller) -> list[Resource]:
        return self._resources.list(caller)

    async def read_resource(self, uri: str, page: Page, *, caller: Caller) -> Content:
        return await self._resources.read(uri, page, caller)

    async def health(self) -> dict[str, object]:
        """The state of the engine and the pools, without a secret; never waits for the engine."""
        error = self._pools.last_error
        return {
            "engine": "ok" if error is None else error.code,
            "sessions": len(self._desk.registry),
            **self._pools.counts(),
        }

    async def run(
        self, request: RunRequest, *, caller: Caller, on_event: OnEvent, session: str | None = None
    ) -> RunResult:
        clock = Clock(time.monotonic())
        grant = self._grant(request)
        if request.reuse:
            check_reuse(request, grant, caller, session)
        limits = effective_limits(request.limits, grant)
        files = tuple(replace(file, path=workspace_path(file.path)) for file in request.files)
        request = replace(request, limits=limits, files=files)
        on_event = _quiet(on_event)
        with self._underway.one(caller.principal):
            place = self._session(session, grant, caller)
            if place is None:
                return await self._run_once(request, grant, caller, clock, on_event)
            return await self._run_in_session(request, grant, clock, place, caller, on_event)

    async def files(
        self, operation: FileOperation, *, caller: Caller, session: str | None = None
    ) -> FileAnswer:
        return await self._files.perform(operation, caller, session)

    def _session(self, handle: str | None, grant: Grant, caller: Caller) -> Session | None:
        """Where to run: the session of that handle, the connection's own, or none."""
        if handle is not None:
            session = self._desk.find(handle, caller)
            self._desk.check_language(grant, session)
            return session
        if caller.connection is None:
            return None
        return self._desk.registry.of(caller.principal, caller.connection, grant.profile)

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

    def _outlet(self, sandbox: Sandbox, request: RunRequest, grant: Grant, caller: Caller) -> Outlet | None:
        """The way out of a run. Raises ConfigError if it should have one that there is not."""
        profile = request.egress or grant.egress
        if profile is None:
            return None
        if self._egress is None:
            raise ConfigError(
                f"the policy grants the egress profile '{profile}', but this server lets nothing out",
                hint="nothing was run; the operator must set up egress or take it out of the policy",
            )
        return sandbox.way_out.outlet(self._egress, EgressAccess(profile, caller.principal))

    # --- one-shot

    async def _run_once(
        self, request: RunRequest, grant: Grant, caller: Caller, clock: Clock, on_event: OnEvent
    ) -> RunResult:
        sandbox = await self._prepared(request, grant.profile, caller.principal, clock, on_event)
        again = False
        async with leftovers(self._store, caller) as left:
            try:
                capture = capture_for(request.limits, left.overflow)
                outlet = self._outlet(sandbox, request, grant, caller)
                exit = await sandbox.run(job_for(request, grant, keep=False), capture, on_event, outlet)
                files = await left.keep_files(sandbox, exit)
                # A listener and certificates would not pass the scrub.
                again = request.reuse and exit.ended_by_itself and outlet is None
            finally:
                self._pools.give_back(sandbox, caller.principal, again)
            result = result_of(exit, capture, grant, clock, SessionInfo(None, "none"))
            return await with_leftovers(result, capture, exit, files)

    async def _prepared(
        self, request: RunRequest, profile: Profile, principal: str, clock: Clock, on_event: OnEvent
    ) -> Sandbox:
        """A fresh sandbox, or one that may be used again, with the request's files in it.

        One that dies before the code was sent has run nothing: another is taken, a few times.
        """
        for attempt in range(_FRESH_TRIES):
            sandbox = await self._acquire(profile, principal, clock, on_event, reuse=request.reuse)
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

    async def _acquire(
        self, profile: Profile, principal: str, clock: Clock, on_event: OnEvent, *, reuse: bool
    ) -> Sandbox:
        begin = time.monotonic()
        sandbox, clock.warm, queued = await self._pools.acquire(
            profile, principal, lambda position: on_event(Queued(position)), reuse=reuse
        )
        clock.queued += queued
        clock.acquired += time.monotonic() - begin - queued
        clock.reused = sandbox.uses > 0
        return sandbox

    # --- sessions

    async def _run_in_session(
        self,
        request: RunRequest,
        grant: Grant,
        clock: Clock,
        session: Session,
        caller: Caller,
        on_event: OnEvent,
    ) -> RunResult:
        async with session.lock.taken(in_turn(on_event)), leftovers(self._store, caller) as left:
            clock.queued = time.monotonic() - clock.begin
            sandbox = await self._session_sandbox(session, request, clock, on_event)
            driver = grant.language.driver
            capture = capture_for(request.limits, left.overflow)
            session.used = time.monotonic()
            try:
                job = job_for(request, grant, keep=driver is not None)
                outlet = self._outlet(sandbox, request, grant, caller)
                exit = await sandbox.run(job, capture, on_event, outlet)
                files = await session_files(sandbox, exit, session.id)
            except BaseException:
                self._interrupted(session, sandbox)
                raise
            session.used = time.monotonic()
            if not sandbox.alive:
                session.sandbox = None
                self._pools.discard(sandbox)
            report = exit.report if sandbox.alive else None
            state, note = session.conclude(report, driver, stopped=exit.host_cause is not None)
            if session.sandbox is None and session.explicit:
                self._desk.lost(session, note)
            session.note_files(files)
            result = result_of(exit, capture, grant, clock, session.info(state, note))
            return await with_leftovers(result, capture, exit, files)

    def _interrupted(self, session: Session, sandbox: Sandbox) -> None:
        """A call was cancelled: nobody gets its result, so the next one tells what became of the state."""
        session.used = time.monotonic()
        session.interrupted = True
        if not sandbox.alive:
            session.lose("the sandbox was destroyed when a call was cancelled")
            self._pools.discard(sandbox)
            if session.explicit:
                self._desk.lost(session, session.loss)

    async def _session_sandbox(
        self,
        session: Session,
        request: RunRequest,
        clock: Clock,
        on_event: OnEvent,
    ) -> Sandbox:
        """The session's sandbox, or a fresh one, with the request's files in it."""
        self._desk.drop_if_over(session)
        if session.sandbox:
            # Closing takes it out of the session while we wait: then what is put or run here is lost.
            sandbox, clock.warm = session.sandbox, True
            for file in request.files:
                await sandbox.put(file)
            return sandbox
        self._desk.check_room(session.principal)
        session.opening = True
        try:
            sandbox = await self._prepared(request, session.profile, session.principal, clock, on_event)
        finally:
            session.opening = False
        # The connection may have ended meanwhile; nobody would ever close this one.
        if session.closed:
            self._pools.discard(sandbox)
            raise self._desk.registry.over(session.id, session.principal)
        session.adopt(sandbox)
        return sandbox


def _quiet(on_event: OnEvent) -> OnEvent:
    """A caller whose callback breaks loses its events, not the wire that they came on."""
    broken = False

    def tell(event: RunEvent) -> None:
        nonlocal broken
        if not broken:
            try:
                on_event(event)
            except Exception:
                broken = True
                _log.exception("a listener to a run failed")

    return tell
