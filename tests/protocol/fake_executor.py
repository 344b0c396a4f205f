"""An executor for tests of the protocol alone: it notes what it is asked and answers as told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from mcp import Client
from mcp.client._memory import InMemoryTransport

from sandbox_server.engines.profile import SandboxLimits
from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller, OnEvent, unheard
from sandbox_server.execution.caps import Caps
from sandbox_server.execution.file_models import FileAnswer, FileOperation, FileResult, Written
from sandbox_server.execution.models import (
    Captured,
    Content,
    Isolation,
    Page,
    Queued,
    ResetWhat,
    Resource,
    RunRequest,
    RunResult,
    SessionInfo,
    SessionRequest,
    SessionState,
    SessionView,
    Timings,
    Usage,
)
from sandbox_server.execution.process_models import ProcessAnswer, ProcessOperation
from sandbox_server.protocol.server import SandboxMcpServer

Script = Callable[[RunRequest, OnEvent], Awaitable[RunResult]]


def captured(text: str = "", *, omitted: int = 0) -> Captured:
    return Captured(text=text, total_bytes=len(text.encode()) + omitted, omitted_bytes=omitted)


OK = RunResult(
    outcome="ok",
    exit_code=0,
    signal=None,
    limit=None,
    stdout=captured("42\n"),
    stderr=captured(),
    value=None,
    displays=(),
    displays_omitted=0,
    usage=Usage(wall=0.01, cpu=0.005, peak_memory=9_000_000),
    timings=Timings(queue=0.0, acquire=0.001, run=0.01, total=0.012, warm=True),
    session=SessionInfo(id=None, state="none"),
    isolation=Isolation(runtime="runc", grade="container"),
)


async def _at_once(on_event: OnEvent) -> None:
    """For an operation that waits for nothing."""


async def print_42(request: RunRequest, on_event: OnEvent) -> RunResult:
    del request, on_event
    return OK


def view(handle: str, state: SessionState = "kept", note: str = "") -> SessionView:
    info = SessionInfo(handle, state, 900.0 if state == "kept" else None, note)
    return SessionView(info, "python", ("python", "bash"), SandboxLimits(), 1.5, False, True)


@dataclass
class FakeSessions:
    """Notes what it is asked. There is one session, whose handle is `known`."""

    known: str = "h" * 32
    asked: list[tuple[str, Caller, object]] = field(default_factory=list)

    def _find(self, name: str, handle: str, caller: Caller, more: object = None) -> None:
        self.asked.append((name, caller, more))
        if handle != self.known:
            raise NotFound("there is no such session", hint="create one")

    async def create(self, request: SessionRequest, *, caller: Caller, on_event: OnEvent) -> SessionView:
        on_event(Queued(1))
        self.asked.append(("create", caller, request))
        return view(self.known)

    def list(self, *, caller: Caller) -> tuple[SessionView, ...]:
        self.asked.append(("list", caller, None))
        return (view(self.known), view("i" * 32, "lost", "it died\x1b[2J"))

    def info(self, handle: str, *, caller: Caller) -> SessionView:
        self._find("info", handle, caller)
        return view(handle)

    async def reset(self, handle: str, what: ResetWhat, *, caller: Caller, on_event: OnEvent) -> SessionView:
        del on_event
        self._find("reset", handle, caller, what)
        return view(handle, "reset", "as asked")

    def extend(self, handle: str, ttl: float | None, *, caller: Caller) -> SessionView:
        self._find("extend", handle, caller, ttl)
        return view(handle)

    def close(self, handle: str, *, caller: Caller) -> SessionView:
        self._find("close", handle, caller)
        return view(handle, "lost", "closed")


@dataclass
class FakeProcesses:
    """Notes what it is asked, and answers `answer`, or that there is no such process."""

    answer: ProcessAnswer | None = None
    asked: list[tuple[ProcessOperation, str | None]] = field(default_factory=list)

    async def perform(
        self, operation: ProcessOperation, *, caller: Caller, session: str | None = None, on_event: OnEvent
    ) -> ProcessAnswer:
        del caller
        on_event(Queued(2, turn=True))
        self.asked.append((operation, session))
        if self.answer is None:
            raise NotFound("there is no such process in this session", hint="list shows those that there are")
        return self.answer


@dataclass
class FakeExecutor:
    """`script` is what a run does. The lists say what happened, in order."""

    script: Script = print_42
    limits: Caps = field(default_factory=Caps)
    requests: list[RunRequest] = field(default_factory=list)
    connections: list[str | None] = field(default_factory=list)
    desk: FakeSessions = field(default_factory=lambda: FakeSessions())
    background: FakeProcesses = field(default_factory=lambda: FakeProcesses())
    handles: list[str | None] = field(default_factory=list)
    operations: list[FileOperation] = field(default_factory=list)
    file_wait: Callable[[OnEvent], Awaitable[None]] = _at_once
    file_script: Callable[[FileOperation], FileResult] = lambda operation: Written(3)
    closed: list[str] = field(default_factory=list)
    started: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    close_seen: anyio.Event = field(default_factory=anyio.Event)

    async def run(
        self, request: RunRequest, *, caller: Caller, on_event: OnEvent, session: str | None = None
    ) -> RunResult:
        connection = caller.connection
        self.requests.append(request)
        self.handles.append(session)
        self.connections.append(connection)
        self.started.set()
        try:
            result = await self.script(request, on_event)
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        if connection is None or result.session.state != "none":
            return result
        return replace(result, session=SessionInfo(id=connection, state="kept"))

    async def files(
        self,
        operation: FileOperation,
        *,
        caller: Caller,
        session: str | None = None,
        on_event: OnEvent = unheard,
    ) -> FileAnswer:
        self.operations.append(operation)
        await self.file_wait(on_event)
        self.handles.append(session)
        made = "m" * 32 if caller.connection is None else caller.connection
        return FileAnswer(self.file_script(operation), SessionInfo(session or made, "kept", 900.0))

    @property
    def processes(self) -> FakeProcesses:
        return self.background

    @property
    def sessions(self) -> FakeSessions:
        return self.desk

    def list_resources(self, *, caller: Caller) -> list[Resource]:
        return []

    async def read_resource(self, uri: str, page: Page, *, caller: Caller) -> Content:
        raise NotFound("there is no such resource")

    async def close_connection(self, connection: str) -> None:
        self.closed.append(connection)
        self.close_seen.set()

    def languages(self, caller: Caller) -> tuple[str, ...]:
        return ("python", "javascript", "bash")

    def caps(self, caller: Caller) -> Caps:
        return self.limits


def connect(server: SandboxMcpServer, era: str, **options: Any) -> Client:
    """A client on a stream of JSON-RPC messages; the SDK's shortcut to a server skips the wire."""
    return Client(InMemoryTransport(server), mode=era, **options)
