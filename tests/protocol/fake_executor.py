"""An executor for tests of the protocol alone: it notes what it is asked and answers as told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from mcp import Client
from mcp.client._memory import InMemoryTransport

from sandbox_server.execution.api import Caps, OnEvent
from sandbox_server.execution.models import (
    Captured,
    Isolation,
    RunRequest,
    RunResult,
    SessionInfo,
    Timings,
    Usage,
)
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


async def print_42(request: RunRequest, on_event: OnEvent) -> RunResult:
    del request, on_event
    return OK


@dataclass
class FakeExecutor:
    """`script` is what a run does. The lists say what happened, in order."""

    script: Script = print_42
    limits: Caps = field(default_factory=Caps)
    requests: list[RunRequest] = field(default_factory=list)
    connections: list[str | None] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    started: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    close_seen: anyio.Event = field(default_factory=anyio.Event)

    async def run(self, request: RunRequest, *, connection: str | None, on_event: OnEvent) -> RunResult:
        self.requests.append(request)
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

    async def close_connection(self, connection: str) -> None:
        self.closed.append(connection)
        self.close_seen.set()

    def languages(self) -> tuple[str, ...]:
        return ("python", "javascript", "bash")

    def caps(self) -> Caps:
        return self.limits


def connect(server: SandboxMcpServer, era: str, **options: Any) -> Client:
    """A client on a stream of JSON-RPC messages; the SDK's shortcut to a server skips the wire."""
    return Client(InMemoryTransport(server), mode=era, **options)
