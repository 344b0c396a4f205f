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
from sandbox_server.execution.models import SessionInfo, SessionState
from sandbox_server.execution.sandbox import CloseReport, Sandbox


@dataclass(eq=False)
class Session:
    """One stateful sandbox of one connection. `lock` puts its calls in order.

    `untold` is what the next result must say, because no result has said it yet.
    """

    profile: Profile
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    sandbox: Sandbox | None = None
    created: float = 0.0
    used: float = 0.0
    cells: int = 0
    untold: tuple[SessionState, str] | None = None

    def adopt(self, sandbox: Sandbox) -> None:
        """Begin anew in `sandbox`."""
        self.sandbox = sandbox
        self.created = self.used = time.monotonic()
        self.cells = 0

    def lose(self, note: str) -> Sandbox | None:
        """Give up the sandbox, if there is one; the next result says why."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            self.untold = ("lost", f"{note}; variables and files of earlier calls are gone")
        return sandbox

    def expires_in(self, sizing: Sizing) -> float:
        now = time.monotonic()
        return min(self.used + sizing.session_idle - now, self.created + sizing.session_ttl - now)

    def conclude(self, report: CloseReport | None, stateful: bool) -> tuple[SessionState, str]:
        """What is true after a run, for its result."""
        told, self.untold = self.untold, None
        if report is None or self.sandbox is None:
            return "lost", "the sandbox ended; variables and files are gone"
        if told is not None and told[0] == "lost":
            return told
        if stateful and report.interpreter == "gone":
            self.cells = 0
            return "reset", "the interpreter ended; variables are gone, files are kept"
        restarted = stateful and report.fresh and self.cells > 0
        self.cells += 1 if stateful else 0
        if told is not None:
            return told
        if restarted:
            return "reset", "the interpreter had ended since the last call; variables were gone, files are kept"
        return "kept", ""


class Sessions:
    """The sessions of all connections."""

    def __init__(self, sizing: Sizing) -> None:
        self._sizing = sizing
        self._sessions: dict[tuple[str, Profile], Session] = {}

    def __len__(self) -> int:
        return sum(1 for session in self._sessions.values() if session.sandbox)

    def of(self, connection: str, profile: Profile) -> Session:
        """The session of a connection for a profile; made, without a sandbox yet, if need be."""
        return self._sessions.setdefault((connection, profile), Session(profile))

    @property
    def full(self) -> bool:
        return len(self) >= self._sizing.sessions

    def close(self, connection: str) -> list[Sandbox]:
        """Forget a connection; returns the sandboxes to destroy."""
        keys = [key for key in self._sessions if key[0] == connection]
        sessions = [self._sessions.pop(key) for key in keys]
        return [session.sandbox for session in sessions if session.sandbox]

    def expire(self) -> list[Sandbox]:
        """Take the sandboxes of sessions whose time is over and that are not running."""
        expired = []
        for session in self._sessions.values():
            if session.sandbox and not session.lock.locked() and session.expires_in(self._sizing) <= 0:
                sandbox = session.lose("the session had expired")
                expired += [sandbox] if sandbox else []
        return expired

    def everything(self) -> list[Sandbox]:
        """Forget all; returns the sandboxes to destroy."""
        sandboxes = [session.sandbox for session in self._sessions.values() if session.sandbox]
        self._sessions.clear()
        return sandboxes

    def info(self, session: Session, state: SessionState, note: str) -> SessionInfo:
        expires_in = max(0.0, session.expires_in(self._sizing)) if session.sandbox else None
        return SessionInfo(session.id, state, expires_in, note)
