"""A port of our own, and uvicorn on it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp

from sandbox_server.errors import ConfigError

STOP_SECONDS = 3
"""How long cancelled requests and idle connections get to close."""


class WebServer(uvicorn.Server):
    """uvicorn without its own signal handlers, with word of being ready and of being about to close. At most
    `most` connections are served; the others are told 503."""

    def __init__(
        self,
        app: ASGIApp,
        on_started: Callable[[], object],
        before_close: Callable[[], Awaitable[None]],
        *,
        most: int | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
                limit_concurrency=most,
            )
        )
        self._on_started = on_started
        self._before_close = before_close

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in self.servers:
            listening.close()
        await self._before_close()
        await super().shutdown(sockets)

    async def stop_when_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Takes the address. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, because asyncio switches Nagle's algorithm off only where it sees TCP; with it each answer on a
    # kept connection waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Now, not when the server begins: until then another could take the same port.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}",
            hint="Choose another port, or stop what uses this one.",
        ) from error
    return listener


def base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
