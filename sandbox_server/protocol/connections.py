"""Which connection a call came on, and what happens when that ends.

A connection is one stdio process, one legacy HTTP session, later one WebSocket. A request
of the stateless 2026-07-28 era over HTTP belongs to none. The id is random, and is not
the `Mcp-Session-Id`, which proxies log.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

CLOSE_SECONDS = 15.0
"""How long the end of a connection may take; after that the reaper has the rest."""

_STATE_KEY = "sandbox_server.connection"
_stream_connection: ContextVar[str | None] = ContextVar("stream_connection", default=None)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerState:
    """What lives as long as the serving process. `connection_ended` returns at once."""

    connection_ended: Callable[[str], None]


@asynccontextmanager
async def closing_connections(close: Callable[[str], Awaitable[None]]) -> AsyncIterator[ServerState]:
    """Run `close` for ended connections in the background, and wait for those on the way out.

    The SDK gives a connection's own exit stack five seconds, less than an engine under
    load may need to remove a container.
    """

    async with anyio.create_task_group() as closers:

        def ended(connection: str) -> None:
            closers.start_soon(close_connection, close, connection)

        yield ServerState(connection_ended=ended)


async def close_connection(close: Callable[[str], Awaitable[None]], connection: str) -> None:
    """Shielded and bounded; a failure is logged, because the reaper removes what is left."""
    with anyio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
        try:
            await close(connection)
        except Exception:
            log.exception("connection_close_failed")
    if scope.cancelled_caught:
        log.warning("connection_close_timed_out", seconds=CLOSE_SECONDS)


@contextmanager
def stream_connection() -> Iterator[str]:
    """A new connection for everything that is served inside: the transport is one peer's stream.

    The transport closes it. Handlers of both eras see it, because tasks inherit the context.
    """
    connection = _new_id()
    token = _stream_connection.set(connection)
    try:
        yield connection
    finally:
        _stream_connection.reset(token)


def connection_of(context: ServerRequestContext[ServerState, Any]) -> str | None:
    """The id of the connection that a request came on, or None if it belongs to none."""
    bound = _stream_connection.get()
    if bound is not None:
        return bound
    if context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    connection = sdk_connection(context)
    if _STATE_KEY not in connection.state:
        _open(connection, context.lifespan_context)
    return str(connection.state[_STATE_KEY])


def _open(connection: Connection, state: ServerState) -> None:
    connection_id = _new_id()
    connection.state[_STATE_KEY] = connection_id
    # The exit stack unwinds however the session ends: DELETE, idle time-out, crash, shutdown.
    connection.exit_stack.callback(state.connection_ended, connection_id)


def sdk_connection(context: ServerRequestContext[ServerState, Any]) -> Connection:
    # mcp 2.3 tells handlers to use `Connection.exit_stack` but hands them no public way to it.
    # tests/protocol/test_sdk_contract.py fails if this attribute goes.
    connection = context.session._connection
    if not isinstance(connection, Connection):
        raise TypeError("the SDK's session no longer holds its connection")
    return connection


def _new_id() -> str:
    return secrets.token_hex(16)
