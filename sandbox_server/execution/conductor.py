"""One run, from what is granted to what came of it: in a sandbox of its own, or in a session's."""

from __future__ import annotations

import time

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import SandboxLost
from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.desk import SessionDesk, in_turn
from sandbox_server.execution.egress import Outlet
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.installs import install_for_session, run_job
from sandbox_server.execution.leftovers import leftovers, session_files, with_leftovers
from sandbox_server.execution.models import (
    Packages,
    Queued,
    RunRequest,
    RunResult,
    SessionInfo,
    SessionRequest,
)
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.runs import Clock, job_for, result_of
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session
from sandbox_server.execution.store import Store
from sandbox_server.execution.way_out import WaysOut

_FRESH_TRIES = 3


class Conductor:
    """The part of the manager that takes a sandbox, runs in it and lets it go."""

    def __init__(self, pools: Pools, desk: SessionDesk, store: Store, ways_out: WaysOut) -> None:
        self._pools = pools
        self._desk = desk
        self._store = store
        self._ways_out = ways_out
        desk.install = self._install

    def _outlet(self, sandbox: Sandbox, grant: Grant, caller: Caller) -> Outlet | None:
        """The way out of a run. Raises ConfigError if it should have one that there is not."""
        return self._ways_out.of(sandbox, grant.egress, caller.principal, caller.who)

    async def _install(
        self, sandbox: Sandbox, wanted: SessionRequest, grant: Grant, caller: Caller
    ) -> Packages:
        """Into a new session. Raises PackagesFailed."""
        outlet = self._outlet(sandbox, grant, caller)
        return await install_for_session(sandbox, wanted.packages, grant, outlet)

    # --- one-shot

    async def run_once(
        self, request: RunRequest, grant: Grant, caller: Caller, clock: Clock, on_event: OnEvent
    ) -> RunResult:
        sandbox = await self._prepared(request, grant.profile, caller.principal, clock, on_event)
        again = False
        async with leftovers(self._store, caller) as left:
            try:
                outlet = self._outlet(sandbox, grant, caller)
                job = job_for(request, grant, keep=False)
                stage = await run_job(sandbox, request, grant, job, left.overflow, on_event, outlet)
                exit, capture = stage.exit, stage.capture
                files = await left.keep_files(sandbox, exit)
                # A listener and certificates would not pass the scrub.
                again = request.reuse and exit.ended_by_itself and outlet is None
            finally:
                self._pools.give_back(sandbox, caller.principal, again)
            result = result_of(exit, capture, grant, clock, SessionInfo(None, "none"), stage.packages)
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

    async def run_in_session(
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
            self._desk.check_current(caller)
            sandbox = await self._session_sandbox(session, request, clock, on_event)
            driver = grant.language.driver
            session.used = time.monotonic()
            try:
                job = job_for(request, grant, keep=driver is not None)
                outlet = self._outlet(sandbox, grant, caller)
                stage = await run_job(sandbox, request, grant, job, left.overflow, on_event, outlet)
                exit, capture = stage.exit, stage.capture
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
            result = result_of(exit, capture, grant, clock, session.info(state, note), stage.packages)
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
