"""Whose trace a request belongs to: `traceparent` in its `_meta`, or else in its HTTP request's header."""

from __future__ import annotations

from typing import Any

from mcp.server.context import CallNext, HandlerResult
from starlette.requests import Request

from sandbox_server.observe.trace import HEADER, trace_id_of, traced
from sandbox_server.protocol.tools import Context


async def tracing(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: whatever is logged or decided for the request has its trace's id."""
    with traced(_trace_of(ctx)):
        return await call_next(ctx)


def _trace_of(context: Context) -> str:
    meta: dict[str, Any] = dict(context.meta or {})
    if found := trace_id_of(meta.get(HEADER)):
        return found
    said = context.request.headers.getlist(HEADER) if isinstance(context.request, Request) else []
    # The specification takes one; of several nobody could say which is true.
    return trace_id_of(said[0]) if len(said) == 1 else ""
