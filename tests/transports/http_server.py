"""A server on a real port, and requests by hand for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2

from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import Output, RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from sandbox_server.transports.http import HttpSettings, serve_http
from tests.protocol.fake_executor import OK, FakeExecutor

SETTINGS = HttpSettings(port=0, shutdown_grace=1)
ACCEPT = {"Accept": "application/json, text/event-stream"}
MODERN = {**ACCEPT, "MCP-Protocol-Version": "2026-07-28"}

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "0"},
    },
}


@asynccontextmanager
async def served(executor: FakeExecutor, settings: HttpSettings = SETTINGS) -> AsyncIterator[str]:
    """A running server; yields its base URL and stops it in good order."""
    urls: list[str] = []
    ready = anyio.Event()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve() -> None:
        await serve_http(build_server(executor, version="1.2.3"), settings, on_ready=on_ready)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await ready.wait()
            yield urls[0]
            tasks.cancel_scope.cancel()


def modern_call(arguments: dict[str, Any], *, token: str | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    if token is not None:
        meta["progressToken"] = token
    params = {"name": "code_execution", "arguments": arguments, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


MODERN_CALL = {**MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "code_execution"}


async def open_session(http: httpx2.AsyncClient, url: str) -> dict[str, str]:
    """A legacy session by hand; returns the headers that later requests carry."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "0"},
    }
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = await http.post(f"{url}/mcp", json=body, headers=ACCEPT)
    assert answer.status_code == 200
    headers = {
        **ACCEPT,
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
        "MCP-Protocol-Version": "2025-11-25",
    }
    await http.post(
        f"{url}/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers
    )
    return headers


def legacy_call(arguments: dict[str, Any]) -> dict[str, Any]:
    params = {"name": "code_execution", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def forever(request: RunRequest, on_event: OnEvent) -> RunResult:
    on_event(Output("stdout", b"started\n"))
    await anyio.sleep_forever()
    return OK
