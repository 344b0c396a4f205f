"""A run, or another operation without a stream of its own, as the reader of the wire sees it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import anyio

from sandbox_server import wire
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.models import Output as OutputEvent
from sandbox_server.execution.models import RunEvent
from sandbox_server.wire import Frame, Type

_CREDIT_STEP = wire.WINDOW // 2
_OUTPUT = (Type.STDOUT, Type.STDERR, Type.SIDE)


class Channel:
    """One operation on the wire, from OPEN to CLOSE."""

    def __init__(self, capture: RunCapture | None, on_event: Callable[[RunEvent], None] | None) -> None:
        self.capture = capture
        self.on_event = on_event
        self.close: Frame | None = None
        self.attention = anyio.Event()
        self.credit = wire.WINDOW
        self.more_credit = anyio.Event()
        self.owed = 0

    def wake(self) -> None:
        """Let everybody who waits look again."""
        self.attention.set()
        self.more_credit.set()

    async def feed(self, number: int, data: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send a program its stdin, as it takes it. Goes on until its end: whoever calls cancels it."""
        view = memoryview(data)
        while view and self.close is None:
            if self.credit <= 0:
                self.more_credit = anyio.Event()
                await self.more_credit.wait()
                continue
            piece = view[: min(self.credit, wire.MAX_FROM_RUNNER)]
            self.credit -= len(piece)
            view = view[len(piece) :]
            await send(wire.encode(Type.DATA, number, bytes(piece)))
        await send(wire.encode(Type.END, number))

    def take(self, frame: Frame) -> int:
        """Handle a frame at once; returns how much credit to give back."""
        if self.close is not None:
            return 0  # CLOSE is the last word
        if frame.type is Type.CLOSE:
            self.close = frame
            self.wake()
            return 0
        if frame.type is Type.CREDIT:
            self.credit += int.from_bytes(frame.payload[:4], "big")
            self.more_credit.set()
            return 0
        if self.capture is None or frame.type not in _OUTPUT:
            raise wire.WireError(f"{frame.type.name} on a channel that has no such thing")
        self._take_output(self.capture, frame)
        self.owed += len(frame.payload)
        if self.owed < _CREDIT_STEP:
            return 0
        owed, self.owed = self.owed, 0
        return owed

    def _take_output(self, capture: RunCapture, frame: Frame) -> None:
        stream: Literal["stdout", "stderr"] = "stdout" if frame.type is Type.STDOUT else "stderr"
        if frame.type is Type.SIDE:
            capture.feed_side(frame.payload)
        else:
            capture.feed(stream, frame.payload)
        if capture.over:
            self.attention.set()
        elif self.on_event and frame.type is not Type.SIDE:
            self.on_event(OutputEvent(stream, frame.payload))
