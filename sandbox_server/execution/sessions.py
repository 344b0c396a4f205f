"""Sessions in their simplest form: what a connection keeps between its calls.

A connection has one sandbox per profile, so languages that the policy gives the same image
and limits share their files. Only its own connection can reach a session.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

import anyio

from sandbox_server.engines.profile import Profile
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.jobs import CloseReport
from sandbox_server.execution.models import SessionInfo, SessionState
from sandbox_server.execution.sandbox import Sandbox


@dataclass(eq=False)
class Session:
    """One stateful sandbox of one connection. `lock` puts its calls in order.

    `loss` is what the next result must say, because no result has said it yet; `interrupted`
    that nobody got the last one. `opening` while a sandbox is on its way, `closed` once the
    connection has ended.
    """

    profile: Profile
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    sandbox: Sandbox | None = None
    created: float = 0.0
    used: float = 0.0
    cells: int = 0
    interrupted: bool = False
    opening: bool = False
    closed: bool = False
    loss: str = ""

    def adopt(self, sandbox: Sandbox) -> None:
        """Begin anew in `sandbox`."""
        self.sandbox = sandbox
        self.created = self.used = time.monotonic()
        self.cells = 0
        self.interrupted = False

    def lose(self, note: str) -> Sandbox | None:
        """Give up the sandbox, if there is one; the next result says why."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            self.loss = f"{note}; variables and files of earlier calls are gone"
        return sandbox

    def end_if_over(self, sizing: Sizing) -> Sandbox | None:
        """Give up a sandbox that has died or whose time is up; returns it for destruction."""
        if self.sandbox and not self.sandbox.alive:
            return self.lose("the sandbox had died")
        if self.sandbox and self.expires_in(sizing) <= 0:
            return self.lose("the session had expired")
        return None

    def expires_in(self, sizing: Sizing) -> float:
        now = time.monotonic()
        return min(self.used + sizing.session_idle - now, self.created + sizing.session_ttl - now)

    def conclude(self, report: CloseReport | None, stateful: bool) -> tuple[SessionState, str]:
        """What is true after a run, for its result."""
        loss, self.loss = self.loss, ""
        if report is None or self.sandbox is None:
            return "lost", "the sandbox ended; variables and files are gone"
        note = self._count_cell(report) if stateful else ""
        if loss:
            return "lost", loss
        return ("reset" if note else "kept"), note

    def _count_cell(self, report: CloseReport) -> str:
        """What became of the interpreter since the last result, if it did not simply go on."""
        # Whether a cancelled call took it along, only the next one finds out.
        restarted = report.fresh and (self.cells > 0 or self.interrupted)
        cause = "a call was cancelled" if self.interrupted else "the interpreter had ended"
        self.interrupted = False
        self.cells += 1
        if report.interpreter == "gone":
            self.cells = 0
            return "the interpreter ended; variables are gone, files are kept"
        return f"{cause} since the last result; variables were gone, files are kept" if restarted else ""


class Sessions:
    """The sessions of all connections."""

    def __init__(self, sizing: Sizing) -> None:
        self._sizing = sizing
        self._sessions: dict[tuple[str, Profile], Session] = {}

    def __len__(self) -> int:
        return sum(1 for session in self._sessions.values() if session.sandbox or session.opening)

    @property
    def held(self) -> int:
        """How many are remembered, with or without a sandbox."""
        return len(self._sessions)

    def of(self, connection: str, profile: Profile) -> Session:
        """The session of a connection for a profile; made, without a sandbox yet, if need be."""
        session = self._sessions.get((connection, profile))
        if session is None:
            session = self._sessions[connection, profile] = Session(profile)
        return session

    @property
    def full(self) -> bool:
        return len(self) >= self._sizing.sessions

    def close(self, connection: str) -> list[Sandbox]:
        """Forget a connection; returns the sandboxes to destroy."""
        keys = [key for key in self._sessions if key[0] == connection]
        sandboxes = []
        for session in [self._sessions.pop(key) for key in keys]:
            session.closed = True
            if session.sandbox:
                sandboxes.append(session.sandbox)
                session.sandbox = None
        return sandboxes

    def expire(self) -> list[Sandbox]:
        """Take the sandboxes of sessions that are over and not running, because their time is up or
        they have died. Forgets sessions that have nothing left to tell."""
        taken = []
        for key, session in list(self._sessions.items()):
            if session.lock.locked():
                continue
            if session.sandbox:
                sandbox = session.end_if_over(self._sizing)
                taken += [sandbox] if sandbox else []
            elif not session.loss or session.expires_in(self._sizing) < -self._sizing.session_ttl:
                del self._sessions[key]
        return taken

    def info(self, session: Session, state: SessionState, note: str) -> SessionInfo:
        expires_in = max(0.0, session.expires_in(self._sizing)) if session.sandbox else None
        return SessionInfo(session.id, state, expires_in, note)
