"""A file operation on the wire: bytes in, bytes out, each side held back by the other, and a report.

Nothing that comes is believed: it is bounded in number here, and in form by who asked for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from sandbox_server import wire
from sandbox_server.wire import Frame, Type

Sink = Callable[[bytes], Awaitable[None]]
Send = Callable[[bytes], Awaitable[None]]
_PIECE = 256 * 1024
_MORE_WINDOW = 1024 * 1024
"""What is added to the wire's first window, with which a file comes at the pace of its round trips."""


class Transfer:
    """One operation from OPEN to CLOSE. `limit` is the most bytes that it may give.

    `sink` gets what comes, piece by piece; while it works the sandbox is held back. `source` is
    what is sent; it is asked for more only as fast as the sandbox takes it.
    """

    def __init__(
        self,
        request: dict[str, Any],
        *,
        limit: int = 0,
        sink: Sink | None = None,
        source: AsyncIterable[bytes] | None = None,
    ) -> None:
        self.request = request
        self.close: Frame | None = None
        self.over = False
        self.sent = False
        """The runner has heard of it, and owes it a CLOSE."""
        self.stopped = False
        """We have ended it before it was done."""
        self._left = limit
        self._window = wire.WINDOW + (_MORE_WINDOW if limit > wire.WINDOW else 0)
        self._sink = sink or _nothing
        self._source = source
        self._credit = wire.WINDOW
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._lost = False
        self._news = anyio.Event()
        self._more_credit = anyio.Event()

    # --- what the reader of the wire calls

    def wake(self) -> None:
        """The sandbox is gone, or the end has come: let everybody who waits look again."""
        self._lost = self.close is None
        self._news.set()
        self._more_credit.set()

    def take(self, frame: Frame) -> int:
        """Handle a frame at once. Returns 0: credit goes back when the sink is done."""
        if self.close is not None:
            return 0
        match frame.type:
            case Type.CLOSE:
                self.close = frame
                self.wake()
            case Type.CREDIT:
                self._credit += int.from_bytes(frame.payload[:4], "big")
                self._more_credit.set()
            case Type.STDOUT:
                self._keep(frame.payload)
            case _:
                raise wire.WireError(f"{frame.type.name} on a file operation")
        return 0

    def _keep(self, data: bytes) -> None:
        self._held += len(data)
        if self._held > self._window:
            raise wire.WireError("more than there was credit for")
        self._left -= len(data)
        self.over = self.over or self._left < 0
        self._chunks.append(data)
        self._news.set()

    # --- what the owner calls

    async def drive(self, number: int, send: Send) -> None:
        """Carry it out until CLOSE, the loss of the sandbox, or too much output."""
        await send(wire.encode_json(Type.OPEN, number, self.request))
        self.sent = True
        if self._window > wire.WINDOW:
            await send(wire.encode_credit(number, self._window - wire.WINDOW))
        async with anyio.create_task_group() as tasks:
            if self._source is not None:
                tasks.start_soon(self._feed, number, send, self._source)
            await self._receive(number, send)
            tasks.cancel_scope.cancel()

    async def closed(self) -> None:
        """Wait for CLOSE or the loss of the sandbox; what comes until then is dropped."""
        while self.close is None and not self._lost:
            self._chunks.clear()
            await self._next()

    async def _next(self) -> None:
        self._news = anyio.Event()
        if self.close is None and not self._lost:
            await self._news.wait()

    async def _receive(self, number: int, send: Send) -> None:
        owed = 0
        while not self.over:
            while self._chunks:
                data = self._chunks.popleft()
                await self._sink(data)
                self._held -= len(data)
                owed += len(data)
                if owed >= self._window // 4 and self.close is None:
                    await send(wire.encode_credit(number, owed))
                    owed = 0
            if self.close is not None or self._lost:
                return
            await self._next()

    async def _feed(self, number: int, send: Send, source: AsyncIterable[bytes]) -> None:
        async for data in source:
            view = memoryview(data)
            while view and self.close is None and not self._lost:
                if self._credit <= 0:
                    self._more_credit = anyio.Event()
                    await self._more_credit.wait()
                    continue
                piece = view[: min(self._credit, _PIECE)]
                self._credit -= len(piece)
                view = view[len(piece) :]
                head = wire.HEADER.pack(len(piece), Type.DATA, number)
                await send(b"".join((head, piece)))
        await send(wire.encode(Type.END, number))


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """A source that is one piece."""
    yield content


async def _nothing(data: bytes) -> None:
    """For an operation that gives nothing: its limit is 0."""
