"""MCP over streamable HTTP at `/mcp`, both eras on one port, with `/healthz` and `/metrics` beside it."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox_server.engines.profile import MIB
from sandbox_server.errors import ConfigError
from sandbox_server.protocol.server import SandboxMcpServer
from sandbox_server.transports.inflight import InFlight
from sandbox_server.transports.listening import STOP_SECONDS, WebServer, base_url, listen
from sandbox_server.transports.metrics import Metrics, metrics_route
from sandbox_server.transports.surrogates import SurrogateAnswers

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where and how to listen. Sizes in bytes, times in seconds; port 0 takes a free one.

    `public_url` is how clients reach the server; its host is accepted in `Host` and, with
    its scheme, in `Origin`, beside the loopback names. `max_body` must hold the largest
    code and files in JSON. A session without a request for `session_idle` ends.
    `shutdown_grace` is how long open requests may go on after a stop.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    public_url: str | None = None
    max_body: int = 32 * MIB
    max_sessions: int = 1000
    session_idle: float = 1800.0
    shutdown_grace: float = 1.0


Health = Callable[[], Awaitable[Mapping[str, object]]]


def http_app(
    server: SandboxMcpServer,
    settings: HttpSettings,
    health: Health | None = None,
    metrics: Metrics | None = None,
) -> Starlette:
    """The ASGI application. Its lifespan runs the server's; it can be entered once.

    `health` adds its facts to `/healthz`, which anybody may read. `metrics` is what `/metrics` says.
    """
    security = transport_security(settings)
    routes = [_health_route(server.version, health)]
    if metrics is not None:
        routes.append(metrics_route(metrics, security))
    app = server.streamable_http_app(
        # SSE, also for short answers: in JSON mode a client that goes away cancels nothing.
        json_response=False,
        stateless_http=False,
        transport_security=security,
        max_request_body_size=settings.max_body,
        session_idle_timeout=settings.session_idle,
        max_sessions=settings.max_sessions,
        custom_starlette_routes=routes,
    )
    limited = server.session_manager.asgi_app
    limited.app = SurrogateAnswers(limited.app, security)
    return app


async def serve_http(
    server: SandboxMcpServer,
    settings: HttpSettings,
    *,
    on_ready: Callable[[str], None] | None = None,
    health: Health | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Serve until cancelled, then stop gracefully: no new connections, `shutdown_grace` for
    calls under way, every session closed. `on_ready` gets the base URL once clients can connect.

    Signals are the caller's. Raises ConfigError if it can't listen there.
    """
    listener = listen(settings.host, settings.port)
    app = http_app(server, settings, health, metrics)
    requests = InFlight(app)
    async with anyio.create_task_group() as tasks:
        with listener, anyio.CancelScope(shield=True):
            async with AsyncExitStack() as sessions:
                await sessions.enter_async_context(app.router.lifespan_context(app))

                async def wind_down() -> None:
                    server.changes.close()  # who only listens needs no grace
                    await requests.drain(settings.shutdown_grace)
                    server.calls.stop()
                    await requests.drain(STOP_SECONDS)
                    # Sessions before streams: a stream that is cut looks like a broken network.
                    await sessions.aclose()
                    await requests.cancel(STOP_SECONDS)

                web = WebServer(requests, lambda: on_ready and on_ready(base_url(listener)), wind_down)
                tasks.start_soon(web.stop_when_cancelled)
                await web.serve(sockets=[listener])
        tasks.cancel_scope.cancel()


def transport_security(settings: HttpSettings) -> TransportSecuritySettings:
    """Which `Host` and `Origin` are ours. Explicit, since the SDK's default off loopback is any."""
    hosts = [*LOOPBACK_NAMES, *(f"{name}:*" for name in LOOPBACK_NAMES)]
    origins = [f"http://{host}" for host in hosts]
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"public_url: {settings.public_url!r} is not an http(s) URL")
        hosts.append(parts.netloc)
        origins.append(f"{parts.scheme}://{parts.netloc}")
    elif not is_loopback(settings.host):
        raise ConfigError(
            f"Listening on {settings.host} needs to know the address that clients use",
            hint="Set public_url, for example http://sandbox.example:8700.",
        )
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _health_route(version: str, health: Health | None) -> Route:
    async def answer(_: Request) -> Response:
        facts = await health() if health else {}
        return JSONResponse({"status": "ok", "version": version, **facts})

    return Route("/healthz", answer, methods=["GET"])
