"""The contract between what clients speak (`protocol/`, the CLI) and what runs their code.

The manager implements `Executor`; the protocol layer knows nothing else of it. Everything
here is free of MCP and of any engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sandbox_server.execution.caps import Caps
from sandbox_server.execution.file_models import FileAnswer, FileOperation
from sandbox_server.execution.grants import Rights
from sandbox_server.execution.models import (
    Content,
    Page,
    ResetWhat,
    Resource,
    RunEvent,
    RunRequest,
    RunResult,
    SessionRequest,
    SessionView,
)
from sandbox_server.execution.process_models import ProcessAnswer, ProcessOperation

ANONYMOUS = "anonymous"
"""The principal of every caller where nobody has to prove who they are."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: everything that a caller may reach, and every quota, goes by `principal`.

    `connection` is the id of the connection that the call came on, None if it came on none. `rights` is what
    the policy grants; None: what the manager was made with, which is nothing where a policy is enforced.
    `who` is what the layers above know of the caller: kept beside what outlives a call, and given back to
    them, so that they can judge anew when the policy changes.
    """

    principal: str = ANONYMOUS
    connection: str | None = None
    rights: Rights | None = field(default=None, compare=False, repr=False)
    who: object = field(default=None, compare=False, repr=False)


OnEvent = Callable[[RunEvent], None]
"""Called synchronously on the event loop, in the order of the events; must not block or raise."""


def unheard(event: RunEvent) -> None:
    """For who does not want to know how a call is getting on."""


class SessionOperations(Protocol):
    """What a caller can do with its sessions.

    Each raises NotFound for a handle that is no session of the caller's principal: a foreign one
    and one that never existed get the same words, one of its own that is over says so.
    """

    async def create(self, request: SessionRequest, *, caller: Caller, on_event: OnEvent) -> SessionView:
        """A new session with a sandbox of its own. Raises Busy, LimitExceeded, InvalidRequest,
        EngineUnavailable."""
        ...

    def list(self, *, caller: Caller) -> tuple[SessionView, ...]:
        """Those that the caller made, and its connection's own."""
        ...

    def info(self, handle: str, *, caller: Caller) -> SessionView:
        """One of them. Looking does not prolong it."""
        ...

    async def reset(self, handle: str, what: ResetWhat, *, caller: Caller, on_event: OnEvent) -> SessionView:
        """End all its processes and keep the files, or give it a new sandbox. Waits for the calls
        before it. Raises SandboxLost if the sandbox does not survive the former."""
        ...

    def extend(self, handle: str, ttl: float | None, *, caller: Caller) -> SessionView:
        """Let it live for `ttl` seconds from now, or for as long as the policy allows, and count as
        used now. Raises LimitExceeded."""
        ...

    def close(self, handle: str, *, caller: Caller) -> SessionView:
        """End it, and what runs in it, at once."""
        ...


class ProcessOperations(Protocol):
    """Background processes of sessions: they live until they end or their session does."""

    async def perform(
        self, operation: ProcessOperation, *, caller: Caller, session: str | None = None, on_event: OnEvent
    ) -> ProcessAnswer:
        """Carry out an operation in a session, also while code runs there; which session, as for `files`,
        but only a start makes one.

        Raises NotFound for a process or session that is not there or not the caller's, InvalidRequest,
        LimitExceeded, Busy and SandboxLost.
        """
        ...


class Executor(Protocol):
    """Runs code. Safe to call from many tasks at once."""

    async def run(
        self, request: RunRequest, *, caller: Caller, on_event: OnEvent, session: str | None = None
    ) -> RunResult:
        """Run `request` and say how it ended; a failing program is a result, never an exception.

        With `session`, the handle of one of the caller's sessions, it runs in that one. Without,
        it runs in a session of the caller's connection, or where there is no connection in a
        sandbox of its own. Cancelling ends every process of the run before this returns.
        Raises the errors of `sandbox_server.errors`.
        """
        ...

    async def files(
        self,
        operation: FileOperation,
        *,
        caller: Caller,
        session: str | None = None,
        on_event: OnEvent = unheard,
    ) -> FileAnswer:
        """Carry out a file operation in a session, also while code runs there. One whose session has no
        sandbox yet waits for it, and tells where it stands.

        Without `session` in the connection's own, which Python code runs in too; where there is no
        connection in a new one, whose handle is in the answer. Raises the errors of
        `sandbox_server.errors`: NotFound also for a file that is not there.
        """
        ...

    @property
    def sessions(self) -> SessionOperations:
        """Sessions that callers make and name by handle."""
        ...

    @property
    def processes(self) -> ProcessOperations:
        """Background processes of sessions."""
        ...

    async def close_connection(self, connection: str) -> None:
        """The connection has ended: destroy its session. Idempotent, also for an unknown id."""
        ...

    def list_resources(self, *, caller: Caller) -> list[Resource]:
        """What the caller can read now: what runs on its connection have left, oldest first."""
        ...

    async def read_resource(self, uri: str, page: Page, *, caller: Caller) -> Content:
        """A page of what a run has left. Raises InvalidRequest for a page that can't be, and NotFound for
        what is not there and what is another principal's alike."""
        ...

    def languages(self, caller: Caller) -> tuple[str, ...]:
        """The languages that the caller may use, most used first. Known even while the engine is down."""
        ...

    def caps(self, caller: Caller) -> Caps:
        """The limits that the caller's calls are held to."""
        ...
