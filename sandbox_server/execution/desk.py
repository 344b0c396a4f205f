"""What a caller can do with sessions: make one, look, reset, extend, close."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import Busy, InvalidRequest, LimitExceeded, NotFound, SandboxLost
from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.grants import Grant, Rights, Sizing
from sandbox_server.execution.installs import check_packages, told
from sandbox_server.execution.models import (
    Packages,
    Queued,
    ResetWhat,
    SessionRequest,
    SessionState,
    SessionView,
)
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.quota import Underway
from sandbox_server.execution.regranting import fits, retained, way_out_now
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session
from sandbox_server.execution.session_rules import check_right, languages_of, ttl_of
from sandbox_server.execution.sessions import Sessions
from sandbox_server.execution.shelf import changed
from sandbox_server.execution.tailored import profile_for

_CHANGED = "the policy has changed"
Install = Callable[[Sandbox, SessionRequest, Grant, Caller], Awaitable[Packages]]


class SessionDesk:
    """The `SessionOperations` of a manager, which runs code in these sessions. `default` are the rights of
    callers that bring none."""

    def __init__(self, pools: Pools, default: Rights, sizing: Sizing, underway: Underway) -> None:
        self._pools = pools
        self._default = default
        self._sizing = sizing
        self._underway = underway
        self.registry = Sessions(sizing)
        self._revision: str | None = None
        self.install: Install | None = None
        """Set by the manager."""

    # --- the operations

    async def create(self, request: SessionRequest, *, caller: Caller, on_event: OnEvent) -> SessionView:
        grant = self.grant(request.language, caller)
        if request.packages:
            check_packages(request.packages, grant, way_out=grant.egress is not None)
        profile = profile_for(request.limits, grant)
        ttl = ttl_of(request.ttl, self._sizing.session_ttl)
        with self.underway(caller):
            self.check_room(caller.principal)
            session = Session(
                profile,
                caller.principal,
                grant.egress,
                idle=self._sizing.session_idle,
                ttl=ttl,
                explicit=True,
            )
            session.who = caller.who
            self.registry.add(session)
            session.opening = True
            try:
                async with session.lock.taken():  # a list shows it while it gets its packages
                    session.adopt(await self._take(profile, caller.principal, on_event))
                    note = await self._with_packages(session, request, grant, caller)
                if session.closed:
                    raise self.registry.over(session.id, session.principal)
            except BaseException:
                self.lost(session, "")
                raise
            finally:
                session.opening = False
        return self.view(session, "kept", note, caller)

    async def _with_packages(
        self, session: Session, request: SessionRequest, grant: Grant, caller: Caller
    ) -> str:
        """What the caller is told of its new session."""
        if not request.packages or session.sandbox is None or self.install is None:
            return "a new session"
        return f"a new session with {told(await self.install(session.sandbox, request, grant, caller))}"

    def list(self, *, caller: Caller) -> tuple[SessionView, ...]:
        self.expire()
        return tuple(self._seen(session, caller) for session in self.registry.reachable(caller))

    def info(self, handle: str, *, caller: Caller) -> SessionView:
        return self._seen(self.find(handle, caller), caller)

    async def reset(self, handle: str, what: ResetWhat, *, caller: Caller, on_event: OnEvent) -> SessionView:
        session = self.find(handle, caller)
        with self.underway(caller):
            async with session.lock.taken(in_turn(on_event)):
                self.check_current(caller)
                sandbox = self._living(session)
                if what == "interpreter":
                    return await self._restart(session, sandbox, caller)
                check_right(session, self.rights(caller))
                return await self._replace(session, caller, on_event)

    async def _restart(self, session: Session, sandbox: Sandbox, caller: Caller) -> SessionView:
        try:
            await sandbox.reset()
        except SandboxLost:
            self._fail(session, "its sandbox was lost while it was reset")
            raise
        session.restart()
        note = "all processes were ended; variables are gone, files are kept"
        return self.view(session, "reset", note, caller)

    async def _replace(self, session: Session, caller: Caller, on_event: OnEvent) -> SessionView:
        """The old sandbox goes first: there may be no place for two."""
        old, session.sandbox = session.sandbox, None
        session.opening = True  # keeps its place among the sessions
        if old:
            self._pools.discard(old)
        try:
            session.replace(await self._take(session.profile, session.principal, on_event))
        except BaseException:
            self._fail(session, "it was reset and got no new sandbox")
            raise
        finally:
            session.opening = False
        if session.closed:
            self.lost(session, "")
            raise self.registry.over(session.id, session.principal)
        return self.view(session, "lost", "a new sandbox, as asked; variables and files are gone", caller)

    def extend(self, handle: str, ttl: float | None, *, caller: Caller) -> SessionView:
        session = self.find(handle, caller)
        if not session.lock.locked():
            self._living(session)  # one that runs does not expire
        now = time.monotonic()
        last = session.created + self._sizing.session_ttl
        if ttl is not None and not ttl > 0:
            raise InvalidRequest("ttl must be more than 0 seconds", hint="leave it out for the most")
        if ttl is not None and now + ttl > last:
            raise LimitExceeded(
                f"ttl {ttl:g} s is more than this session can have, {max(0.0, last - now):.0f} s",
                hint="ask for less, or leave ttl out for the most",
            )
        session.deadline = last if ttl is None else now + ttl
        session.used = now
        return self._seen(session, caller)

    def close(self, handle: str, *, caller: Caller) -> SessionView:
        session = self.find(handle, caller)
        story = "it was closed; variables, files and processes are gone"
        self.lost(session, story)
        return self.view(session, "lost", story, caller)

    # --- what the manager shares

    def rights(self, caller: Caller) -> Rights:
        return self._default if caller.rights is None else caller.rights

    def grant(self, language: str, caller: Caller) -> Grant:
        """Raises InvalidRequest for a language that the caller does not have."""
        known = self.rights(caller).languages
        if language not in known:
            raise InvalidRequest(f"unknown language '{language[:40]}'", hint=f"one of: {', '.join(known)}")
        return known[language]

    def underway(self, caller: Caller, size: int = 0) -> AbstractContextManager[None]:
        """One more run of the caller's, or what takes a sandbox as one does. Raises Busy."""
        return self._underway.one(caller.principal, self.rights(caller).runs, size)

    def other(self, caller: Caller, size: int = 0) -> AbstractContextManager[None]:
        """One more call of the caller's that is no run. Raises Busy."""
        return self._underway.other(caller.principal, size)

    def find(self, handle: str, caller: Caller) -> Session:
        """One of the caller's. Raises NotFound, which says so if it is over."""
        session = self.registry.find(handle, caller.principal)
        if not session.lock.locked():
            self.drop_if_over(session)
        return session

    def lost(self, session: Session, story: str) -> None:
        """The session has ended, with what it held."""
        sandbox = self.registry.end(session, story)
        if sandbox:
            self._pools.discard(sandbox)

    def _fail(self, session: Session, why: str) -> None:
        """A reset took the sandbox. A connection's own session goes on without; its next result says so."""
        story = f"{why}; variables and files are gone"
        if session.explicit or session.closed:
            self.lost(session, story)
            return
        sandbox, session.sandbox, session.loss = session.sandbox, None, story
        if sandbox:
            self._pools.discard(sandbox)

    def drop_if_over(self, session: Session) -> None:
        """Raises NotFound if nobody may use it any more. A connection's own goes on without a sandbox."""
        over = self.registry.end_if_over(session)
        if over:
            self._pools.discard(over)
        if session.closed:
            raise self.registry.over(session.id, session.principal)

    def _living(self, session: Session) -> Sandbox:
        self.drop_if_over(session)
        if session.sandbox is None:
            raise NotFound(
                f"this session has no sandbox: {session.loss or 'none was made yet'}",
                hint="nothing was done; the next run on its connection makes one",
            )
        return session.sandbox

    async def opened(self, session: Session, caller: Caller, on_event: OnEvent) -> Sandbox:
        """Its sandbox, or a fresh one. Its lock must be held."""
        self.drop_if_over(session)
        if session.sandbox:
            return session.sandbox
        check_right(session, self.rights(caller))
        self.check_room(session.principal)
        session.opening = True
        try:
            sandbox = await self._take(session.profile, session.principal, on_event)
        finally:
            session.opening = False
        if session.closed:
            self._pools.discard(sandbox)
            raise self.registry.over(session.id, session.principal)
        session.adopt(sandbox)
        return sandbox

    def check_room(self, principal: str) -> None:
        """Raises Busy if there are as many sessions as there may be, and none that could make room."""
        self.expire()
        if self.registry.full_for(principal):
            self._evict(principal)
        elif self.registry.full:
            self._evict(None)
        if self.registry.full:
            raise Busy(
                f"all {self._sizing.sessions} sessions are in use",
                retry_after=30.0,
                hint="nothing was run; try again when another client has finished",
            )
        if self.registry.full_for(principal):
            raise Busy(
                f"{self._sizing.sessions_per_principal} sessions are yours, as many as one caller may have",
                retry_after=30.0,
                hint="nothing was run; close one that you don't need (tool sandbox, operation close)",
            )

    def _evict(self, principal: str | None) -> None:
        """Clients that went away without a word must not keep everybody else out until they expire."""
        session = self.registry.longest_idle(principal)
        if session is not None and (sandbox := session.lose("another caller needed its place")):
            self._pools.discard(sandbox)

    def check_current(self, caller: Caller) -> None:
        """For who has waited for a turn. Raises Busy if the policy was replaced meanwhile."""
        brought = None if caller.rights is None else caller.rights.revision
        if brought is not None and self._revision not in (None, brought):
            raise changed()

    def regrant(self, rights_of: Callable[[object], Rights], revision: str) -> None:
        """End the sessions whose callers no longer have a right to them; the others go on as they are. Who
        waits for a turn in one by the rights of another revision is told to call again."""
        self._revision = revision
        for session in self.registry.all():
            rights = rights_of(session.who)
            egress = way_out_now(session.profile, session.egress, rights)
            profile = retained(session.profile, egress, rights, own=not session.explicit)
            if egress != session.egress:
                session.egress = egress
                if session.sandbox:
                    session.sandbox.way_out.forget()
            if profile is None or not self.registry.rekey(session, profile, egress):
                self.lost(session, f"{_CHANGED} and no longer grants it; variables and files are gone")
            elif not fits(session.profile, profile):
                session.profile = profile
                self._fail(session, f"{_CHANGED}: its limits are lower")
            else:
                session.profile = profile

    def expire(self) -> None:
        for sandbox in self.registry.expire():
            self._pools.discard(sandbox)

    def view(self, session: Session, state: SessionState, note: str, caller: Caller) -> SessionView:
        return SessionView(
            info=session.info(state, note),
            image=session.profile.image,
            languages=languages_of(session, self.rights(caller)),
            limits=session.profile.limits,
            age=time.monotonic() - session.created,
            running=session.lock.locked(),
            explicit=session.explicit,
        )

    def _seen(self, session: Session, caller: Caller) -> SessionView:
        """As it is, without touching it."""
        if session.sandbox is None or session.loss:
            return self.view(session, "lost", session.loss, caller)
        note = "a call was cancelled; the next result says whether variables are gone"
        return self.view(session, "kept", note if session.interrupted else "", caller)

    async def _take(self, profile: Profile, principal: str, on_event: OnEvent) -> Sandbox:
        def tell(position: int) -> None:
            on_event(Queued(position))

        return (await self._pools.acquire(profile, principal, tell)).sandbox


def in_turn(on_event: OnEvent) -> Callable[[int], None]:
    """Where a call stands among those of its session, as an event."""
    return lambda position: on_event(Queued(position, turn=True))
