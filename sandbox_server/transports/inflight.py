"""The HTTP requests that are being answered, so that a stop can be orderly.

Left to itself uvicorn waits for every open stream until its time-out, cancels the handlers
and logs a traceback for each; their clients see a broken connection.
"""

from __future__ import annotations

import anyio
import mcp_types as types
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ERROR_SERVER_STOPPING = -32000


class InFlight:
    """ASGI, outermost. After `drain` began, new requests are refused with 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running: set[anyio.CancelScope] = set()
        self._working: set[anyio.CancelScope] = set()
        self._stopping = False
        self._changed = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        if self._stopping:
            await answer.end(scope, receive)
            return
        with anyio.CancelScope() as cancel:
            # A GET is a stream of notifications: it never ends by itself and does no work.
            group = [self._running, self._working] if scope["method"] == "POST" else [self._running]
            for requests in group:
                requests.add(cancel)
            try:
                await self._app(scope, receive, answer)
            finally:
                for requests in group:
                    requests.discard(cancel)
                self._changed.set()
        if cancel.cancelled_caught:
            await answer.end(scope, receive)

    async def drain(self, seconds: float) -> None:
        """Refuse what is new and give what is being worked on `seconds` to end."""
        self._stopping = True
        with anyio.move_on_after(seconds):
            await self._until_none(self._working)

    async def cancel(self, seconds: float) -> None:
        """End what is left, with an error where no answer has begun."""
        for request in self._running:
            request.cancel()
        with anyio.move_on_after(seconds):
            await self._until_none(self._running)

    async def _until_none(self, requests: set[anyio.CancelScope]) -> None:
        while requests:
            self._changed = anyio.Event()
            await self._changed.wait()


class _Answer:
    """`send`, remembering how far the answer got."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive) -> None:
        """Complete the answer: as an error if it has not begun, else where it is."""
        if self._complete:
            return
        if self._started:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        error = types.ErrorData(code=ERROR_SERVER_STOPPING, message="The server is stopping")
        body = types.JSONRPCError(jsonrpc="2.0", id=None, error=error)
        content = body.model_dump(by_alias=True, mode="json", exclude_unset=True)
        await JSONResponse(content, status_code=503)(scope, receive, self._send)
