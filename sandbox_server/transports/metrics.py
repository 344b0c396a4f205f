"""`/metrics`, beside `/mcp` or at an address of its own."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sandbox_server.errors import Busy
from sandbox_server.observe.scrape import CONTENT_TYPE
from sandbox_server.transports.listening import WebServer

Metrics = Callable[[], Awaitable[bytes]]
"""All of them as text. Raises Busy."""

MOST_CONNECTIONS: Final = 16


def metrics_route(metrics: Metrics, security: TransportSecuritySettings) -> Route:
    """They name principals, hosts and rules: a page in the browser of somebody on this machine must not read
    them under a name of its own, so `Host` and `Origin` are checked."""
    check = TransportSecurityMiddleware(security)

    async def answer(request: Request) -> Response:
        if refused := await check.validate_request(request):
            return refused
        try:
            text = await metrics()
        except Busy as busy:
            return PlainTextResponse(f"{busy.message}\n", 503, {"Retry-After": f"{busy.retry_after:.0f}"})
        return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    return Route("/metrics", answer, methods=["GET"])


async def serve_metrics(
    metrics: Metrics, security: TransportSecuritySettings, listener: socket.socket
) -> None:
    """Until cancelled, on a socket that listens."""
    app = Starlette(routes=[metrics_route(metrics, security)])
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope(shield=True):
            web = WebServer(app, _nothing, anyio.lowlevel.checkpoint, most=MOST_CONNECTIONS)
            tasks.start_soon(web.stop_when_cancelled)
            await web.serve(sockets=[listener])
        tasks.cancel_scope.cancel()


def _nothing() -> None:
    """Its socket listens already."""
