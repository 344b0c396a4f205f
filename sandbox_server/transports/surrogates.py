r"""A lone surrogate (`"\ud800"`) in a tool call over legacy HTTP gets the same answer as elsewhere.

The SDK's parser for that wire refuses the whole message ("unexpected end of hex escape"),
which tells a model nothing. Every other road leads to the registry, which names the place.
"""

from __future__ import annotations

import json
import re
from typing import Any

import mcp_types as types
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox_server.errors import InvalidRequest
from sandbox_server.protocol.failures import tool_error
from sandbox_server.protocol.registry import refuse_surrogates
from sandbox_server.protocol.text import surrogate_paths

_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class SurrogateAnswers:
    """ASGI, inside the body limit (the body comes in one message) and inside authentication."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._security = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        first = await receive()
        answer = _answer(first.get("body", b""))
        refused = await self._security.validate_request(Request(scope), is_post=True) if answer else None
        if answer is None or refused is not None:
            await self._app(scope, _replaying(first, receive), send)
        else:
            await JSONResponse(answer)(scope, receive, send)


def _replaying(first: Message, receive: Receive) -> Receive:
    pending = [first]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _answer(body: bytes) -> dict[str, Any] | None:
    """The response to a tool call whose arguments hold a lone surrogate; None to anything else."""
    if not _ESCAPE.search(body):
        return None
    try:
        request = types.JSONRPCRequest.model_validate(json.loads(body))
    except (ValueError, RecursionError):
        return None
    arguments = (request.params or {}).get("arguments")
    if request.method != "tools/call" or next(surrogate_paths(request.id), None) is not None:
        return None
    try:
        refuse_surrogates(arguments)
    except InvalidRequest as error:
        result = tool_error(error).model_dump(by_alias=True, mode="json", exclude_none=True)
        return {"jsonrpc": "2.0", "id": request.id, "result": result}
    return None
