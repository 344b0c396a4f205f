"""Which session a file operation is made in, and its sandbox: the part of the manager that knows both."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.desk import SessionDesk, in_turn
from sandbox_server.execution.file_models import FileAnswer, FileOperation
from sandbox_server.execution.files import Files
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.models import RunEvent, SessionRequest
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session

_FIRST = "python"
"""The language whose session files belong to when nobody names one."""


def _ignore(event: RunEvent) -> None:
    """A file operation does not tell where it stands in the queue."""


class FileDesk:
    """Files of sessions. Does not wait for the code that runs in a session."""

    def __init__(self, sessions: SessionDesk, grants: Mapping[str, Grant]) -> None:
        self._sessions = sessions
        self._language = _FIRST if _FIRST in grants else next(iter(grants), _FIRST)
        self._grants = grants

    async def perform(self, operation: FileOperation, caller: Caller, handle: str | None) -> FileAnswer:
        session = await self.session_for(caller, handle)
        sandbox = await self.sandbox_of(session)
        session.used = time.monotonic()
        try:
            result = await Files(sandbox).perform(operation)
        finally:
            session.used = time.monotonic()
        return FileAnswer(result, session.info(*session.tell()))

    async def session_for(self, caller: Caller, handle: str | None, on_event: OnEvent = _ignore) -> Session:
        """That of the handle, the connection's own, or a new one whose handle the answer tells."""
        if handle is None and caller.connection is not None:
            profile = self._grants[self._language].profile
            return self._sessions.registry.of(caller.principal, caller.connection, profile)
        if handle is None:
            request = SessionRequest(language=self._language)
            made = await self._sessions.create(request, caller=caller, on_event=on_event)
            handle = made.info.id or ""
        return self._sessions.find(handle, caller)

    async def sandbox_of(self, session: Session, on_event: OnEvent = _ignore) -> Sandbox:
        """Its sandbox, though a run may have it; only where there is none it is waited for."""
        if session.lock.locked() and session.sandbox is not None and session.sandbox.alive:
            return session.sandbox
        async with session.lock.taken(in_turn(on_event)):
            return await self._sessions.opened(session, on_event)
