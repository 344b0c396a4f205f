"""Which session a file operation is made in, and its sandbox: the part of the manager that knows both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sandbox_server.execution import file_rights
from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.desk import SessionDesk, in_turn
from sandbox_server.execution.file_models import FileAnswer, FileOperation, size_of
from sandbox_server.execution.files import Files
from sandbox_server.execution.models import SessionRequest
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.session import Session

_FIRST = "python"
"""The language whose session files belong to when nobody names one."""


class FileDesk:
    """Files of sessions. Does not wait for the code that runs in a session."""

    def __init__(self, sessions: SessionDesk) -> None:
        self._sessions = sessions

    async def perform(
        self, operation: FileOperation, caller: Caller, handle: str | None, on_event: OnEvent
    ) -> FileAnswer:
        with self._sessions.other(caller, size_of(operation)):
            return await self._perform(operation, caller, handle, on_event)

    async def _perform(
        self, operation: FileOperation, caller: Caller, handle: str | None, on_event: OnEvent
    ) -> FileAnswer:
        rules = self._sessions.rights(caller).files
        async with self.lent(caller, handle, on_event) as session:
            sandbox = await self.sandbox_of(session, caller, on_event)
            self._sessions.check_current(caller)
            session.used = time.monotonic()
            try:
                result = await file_rights.perform(
                    Files(sandbox), file_rights.rooted(operation, rules), rules
                )
            finally:
                session.used = time.monotonic()
        return FileAnswer(result, session.info(*session.tell()))

    @asynccontextmanager
    async def lent(self, caller: Caller, handle: str | None, on_event: OnEvent) -> AsyncIterator[Session]:
        """The session of a call, see `session_for`. One that was made for a call that fails ends with it:
        nobody is told its handle, and a few mistakes would take all the sessions that a caller may have."""
        session = await self.session_for(caller, handle, on_event)
        try:
            yield session
        except BaseException:
            if handle is None and session.explicit:
                self._sessions.lost(session, "the call that made it has failed")
            raise

    async def session_for(self, caller: Caller, handle: str | None, on_event: OnEvent) -> Session:
        """That of the handle, the connection's own, or a new one whose handle the answer tells."""
        granted = self._sessions.rights(caller).languages
        language = _FIRST if _FIRST in granted else next(iter(granted), _FIRST)
        if handle is None and caller.connection is not None:
            grant = self._sessions.grant(language, caller)
            return self._sessions.registry.of(
                caller.principal, caller.connection, grant.profile, grant.egress, caller.who
            )
        if handle is None:
            request = SessionRequest(language=language)
            made = await self._sessions.create(request, caller=caller, on_event=on_event)
            handle = made.info.id or ""
        return self._sessions.find(handle, caller)

    async def sandbox_of(self, session: Session, caller: Caller, on_event: OnEvent) -> Sandbox:
        """Its sandbox, though a run may have it; only where there is none it is waited for."""
        if session.lock.locked() and session.sandbox is not None and session.sandbox.alive:
            return session.sandbox
        async with session.lock.taken(in_turn(on_event)):
            return await self._sessions.opened(session, caller, on_event)
