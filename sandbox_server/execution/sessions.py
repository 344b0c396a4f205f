"""All sessions: who has which, how many there may be, and what became of those that have ended.

A connection has one session per profile and way out, so languages that the policy gives the same image,
limits and egress share their files. Every session belongs to one principal. A handle of somebody else gets
the very same answer as one that never existed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session

MOST_ENDED = 4096
MOST_CLOSED = 4096
"""Connections: a call that is late by more than that many others begins a session, which ends as it idles."""
MOST_ENDED_EACH = 64
"""Of one principal: one that makes and closes sessions all day must not make us forget another's."""


@dataclass(frozen=True, slots=True)
class _Ended:
    principal: str
    story: str


class Sessions:
    """The sessions of all principals, by handle and, where they belong to one, by connection."""

    def __init__(self, sizing: Sizing) -> None:
        self._sizing = sizing
        self._by_id: dict[str, Session] = {}
        self._by_connection: dict[tuple[str, str, Profile, str | None], Session] = {}
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._closed: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return sum(1 for session in self._by_id.values() if session.sandbox or session.opening)

    @property
    def held(self) -> int:
        """How many are remembered, with or without a sandbox."""
        return len(self._by_id)

    @property
    def full(self) -> bool:
        return len(self) >= self._sizing.sessions

    def full_for(self, principal: str) -> bool:
        """Whether `principal` has as many as it may have."""
        own = (s for s in self._by_id.values() if s.principal == principal and (s.sandbox or s.opening))
        return sum(1 for _ in own) >= self._sizing.sessions_per_principal

    def longest_idle(self, principal: str | None = None) -> Session | None:
        """The connection's own session that has been idle longest, and for `session_hold` at least;
        of `principal` if one is named. One that a caller made for itself is promised until it expires."""
        idle = [
            session
            for session in self._by_connection.values()
            if session.sandbox
            and not (session.lock.locked() or session.opening)
            and principal in (None, session.principal)
            and session.idle_for() >= self._sizing.session_hold
        ]
        return min(idle, key=lambda session: session.used, default=None)

    def all(self) -> list[Session]:
        return list(self._by_id.values())

    def rekey(self, session: Session, profile: Profile, egress: str | None) -> bool:
        """From now on a connection's own is found by these, unless another has them already."""
        for key in [key for key, each in self._by_connection.items() if each is session]:
            wanted = (*key[:2], profile, egress)
            if self._by_connection.setdefault(wanted, session) is not session:
                return False
            if wanted != key:
                del self._by_connection[key]
        return True

    # --- finding

    def of(
        self,
        principal: str,
        connection: str,
        profile: Profile,
        egress: str | None = None,
        who: object = None,
    ) -> Session:
        """The session of a connection for a profile and a way out; made, without a sandbox yet, if need be.

        Raises NotFound if the connection has ended: nobody would ever close what a late call began."""
        if connection in self._closed:
            raise NotFound("the connection of this call has ended", hint="nothing was run; connect again")
        # The principal, too: whoever gets hold of a connection must not get its owner's session.
        key = principal, connection, profile, egress
        session = self._by_connection.get(key)
        if session is None:
            sizing = self._sizing
            idle, ttl = sizing.session_idle, sizing.session_ttl
            session = Session(profile, principal, egress, idle=idle, ttl=ttl)
            self._by_connection[key] = self._by_id[session.id] = session
        session.who = who
        return session

    def add(self, session: Session) -> None:
        """One that a caller makes for itself."""
        self._by_id[session.id] = session

    def find(self, handle: str, principal: str) -> Session:
        """Raises NotFound: no such session, or not this principal's, or over, which it says."""
        session = self._by_id.get(handle)
        if session is not None and session.principal == principal:
            return session
        raise self.over(handle, principal)

    def over(self, handle: str, principal: str) -> NotFound:
        """Why `handle` is no session of `principal`."""
        ended = self._ended.get(handle)
        if ended is not None and ended.principal == principal:
            return NotFound(
                f"this session is over: {ended.story}", hint="nothing was run; create another session"
            )
        return NotFound(
            "there is no such session", hint="nothing was run; create one, or leave the session out"
        )

    def reachable(self, caller: Caller) -> list[Session]:
        """Those with a sandbox that `caller` made, and its connection's own."""
        own = [s for s in self._by_id.values() if s.explicit and s.principal == caller.principal]
        here = (caller.principal, caller.connection)
        own += [s for key, s in self._by_connection.items() if key[:2] == here]
        return [session for session in own if session.sandbox]

    def living(self, handle: str, principal: str) -> Session | None:
        """The session of that handle, if it is this principal's and has a sandbox."""
        session = self._by_id.get(handle)
        return session if session and session.principal == principal and session.sandbox else None

    # --- ending

    def end(self, session: Session, story: str) -> Sandbox | None:
        """Forget a session, but for how it ended; returns the sandbox to destroy, if there is one."""
        sandbox, session.sandbox = session.sandbox, None
        session.closed = True
        if self._by_id.pop(session.id, None) is None:
            return sandbox
        for key in [key for key, each in self._by_connection.items() if each is session]:
            del self._by_connection[key]
        # Nobody was ever given the handle of one that never had a sandbox.
        if session.created:
            self._remember(session, story)
        return sandbox

    def _remember(self, session: Session, story: str) -> None:
        own = [handle for handle, ended in self._ended.items() if ended.principal == session.principal]
        if len(own) >= MOST_ENDED_EACH:
            del self._ended[own[0]]
        elif len(self._ended) >= MOST_ENDED:
            self._ended.popitem(last=False)
        self._ended[session.id] = _Ended(session.principal, story)

    def end_if_over(self, session: Session) -> Sandbox | None:
        """As the session's own; an explicit one is forgotten with it."""
        sandbox = session.end_if_over()
        if sandbox and session.explicit:
            self.end(session, session.loss)
        return sandbox

    def close(self, connection: str) -> list[Sandbox]:
        """Forget a connection, but for that it has ended; returns the sandboxes to destroy."""
        self._closed[connection] = None
        if len(self._closed) > MOST_CLOSED:
            self._closed.popitem(last=False)
        own = [session for key, session in self._by_connection.items() if key[1] == connection]
        ended = [self.end(session, "its connection has ended; nothing of it is left") for session in own]
        return [sandbox for sandbox in ended if sandbox]

    def expire(self) -> list[Sandbox]:
        """Take the sandboxes of sessions that are over and not running, because their time is up or
        they have died. Forgets sessions that have nothing left to tell."""
        taken = []
        for session in list(self._by_id.values()):
            if session.lock.locked() or session.opening:
                continue
            if session.sandbox:
                sandbox = self.end_if_over(session)
                taken += [sandbox] if sandbox else []
            elif not session.loss or session.expires_in() < -session.ttl:
                self.end(session, "it had expired; variables and files are gone")
        return taken
