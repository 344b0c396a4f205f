"""Bounding and cleaning what comes out of a sandbox. Every byte here is hostile."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from sandbox_server.execution.models import Captured, Display, StreamName
from sandbox_server.text import make_visible

_SIDE = struct.Struct(">BI")
_VALUE, _DISPLAY, _NO_SPACE = 1, 2, 3
_VALUE_LIMIT = 66 * 1024
_MIMES = frozenset({"image/png", "text/html", "text/plain"})
_PNG = b"\x89PNG\r\n\x1a\n"
MOST_DISPLAYS = 100
"""Each is an object here and a block in the result, however few bytes it has on the wire."""
_MOST_RECORDS = 10_000
TEXT_DISPLAY = 256 * 1024
"""Bytes that a text or HTML display may have in a result, as it is shown."""
_STEP = 256


class Capture:
    """The first and the last bytes of a stream; the middle is counted, not kept.

    Holds at most 1.5 x `limit` bytes and gives back `limit`, half of them for the end of the stream.
    """

    def __init__(self, limit: int) -> None:
        self._head_limit = limit - limit // 2
        self._tail_limit = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data or not self._tail_limit:
            return
        self._tail += data[-self._tail_limit :]
        if len(self._tail) > 2 * self._tail_limit:
            del self._tail[: -self._tail_limit]

    def everything(self) -> bytes | None:
        """All that was fed, as long as nothing had to be dropped."""
        if self.total == len(self._head) + len(self._tail):
            return bytes(self._head + self._tail)
        return None

    def finish(self) -> Captured:
        """What was kept, as text of at most `limit` bytes of UTF-8 and a note of what was cut."""
        head = bytes(self._head)
        tail = bytes(self._tail[-self._tail_limit :]) if self._tail_limit else b""
        if self.total == len(head) + len(tail):
            text = make_visible((head + tail).decode("utf-8", "replace"))
            if _size(text) <= self._head_limit + self._tail_limit:
                return Captured(text, self.total, 0)
        before, kept_before = _fit(trim_end(head), self._head_limit)
        after, kept_after = _fit(_trim_start(tail), self._tail_limit, at_end=True)
        omitted = self.total - kept_before - kept_after
        return Captured(f"{before}\n[... {omitted} bytes omitted ...]\n{after}", self.total, omitted)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _fit(data: bytes, room: int, *, at_end: bool = False) -> tuple[str, int]:
    """As much of the start (or the end) of `data`, shown, as has room, and how many bytes of it that is.

    An escape takes up to four times the space of what it stands for.
    """
    text = data.decode("utf-8", "surrogateescape")  # unlike "replace" it can be counted back
    shown = make_visible(text)
    if _size(shown) <= room:
        return shown, len(data)
    pieces: list[str] = []
    start, end, step = 0, len(text), _STEP
    while step:
        piece = text[max(start, end - step) : end] if at_end else text[start : start + step]
        shown = make_visible(piece)
        if _size(shown) > room:
            step //= 4
            continue
        pieces.append(shown)
        room -= _size(shown)
        start, end = (start, end - len(piece)) if at_end else (start + len(piece), end)
    left = text[start:end].encode("utf-8", "surrogateescape")
    return "".join(reversed(pieces) if at_end else pieces), len(data) - len(left)


def trim_end(data: bytes) -> bytes:
    """Without a character that the cut has split."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            width = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return data[:-back] if back < width else data
    return data


def _trim_start(data: bytes) -> bytes:
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


def _shown_display(data: bytes) -> bytes:
    """A text display as it may be shown: escapes must not make a few megabytes many."""
    shown, kept = _fit(trim_end(data[:TEXT_DISPLAY]) if len(data) > TEXT_DISPLAY else data, TEXT_DISPLAY)
    if kept < len(data):
        shown += f"\n[... {len(data) - kept} bytes omitted ...]"
    return shown.encode()


class SideChannel:
    """Collects the value and the displays that a program's own process reports.

    Keeps at most `limit` bytes of displays, in the order in which they came, and counts the rest.
    A malformed record ends the channel: what follows can't be told apart any more. So does
    a flood of records, which would cost the server more than it costs the program.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._skip = 0
        self._broken = False
        self._records = 0
        self._size = 0
        self.value: str | None = None
        self.no_space = False
        self.displays: list[Display] = []
        self.omitted = 0

    def feed(self, data: bytes) -> None:
        if self._broken:
            return
        self._buffer += data
        while self._buffer:
            if self._skip:
                dropped = min(self._skip, len(self._buffer))
                self._skip -= dropped
                del self._buffer[:dropped]
                continue
            if len(self._buffer) < _SIDE.size:
                return
            kind, length = _SIDE.unpack_from(self._buffer)
            if kind not in (_VALUE, _DISPLAY, _NO_SPACE) or self._records >= _MOST_RECORDS:
                self._broken = True
                self._buffer.clear()
                return
            if not self._admits(kind, length):
                self.omitted += 1
                self._records += 1
                self._skip = _SIDE.size + length
                continue
            end = _SIDE.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_SIDE.size : end])
            del self._buffer[:end]
            self._records += 1
            self._take(kind, body)

    def _admits(self, kind: int, length: int) -> bool:
        if kind == _VALUE:
            return length <= _VALUE_LIMIT
        if kind == _NO_SPACE:
            return length == 0
        return len(self.displays) < MOST_DISPLAYS and self._size + length <= self._limit

    def _take(self, kind: int, body: bytes) -> None:
        if kind == _VALUE:
            self.value = make_visible(body.decode("utf-8", "replace"))
            return
        if kind == _NO_SPACE:
            self.no_space = True
            return
        mime, _, data = body.partition(b"\0")
        name = mime.decode("ascii", "replace")
        if name not in _MIMES or (name == "image/png" and not data.startswith(_PNG)):
            self.omitted += 1
            return
        self._size += len(body)
        self.displays.append(Display(name, data if name == "image/png" else _shown_display(data)))


class Overflow(Protocol):
    """Where a stream goes whole once it is more than the caller wants to see."""

    kept: int
    uri: str

    def feed(self, data: bytes) -> None: ...

    async def flush(self) -> None: ...


class RunCapture:
    """Everything that one run puts out. `over` turns true beyond the hard total.

    `overflow` makes the place for a stream of which something is cut. What is fed waits in memory until
    `accept`, which whoever feeds awaits before it lets the program write more.
    """

    def __init__(
        self,
        output: int,
        output_total: int,
        display_total: int,
        overflow: Callable[[StreamName], Overflow] | None = None,
    ) -> None:
        self._streams: dict[StreamName, Capture] = {"stdout": Capture(output), "stderr": Capture(output)}
        self._output = output
        self._left = output_total
        self._make_overflow = overflow
        self._overflows: dict[StreamName, Overflow] = {}
        self.side = SideChannel(display_total)

    @property
    def over(self) -> bool:
        return self._left < 0

    def feed(self, stream: StreamName, data: bytes) -> None:
        self._left -= len(data)
        capture = self._streams[stream]
        if capture.total + len(data) > self._output:
            self._overflow(stream, data)
        capture.feed(data)

    def _overflow(self, stream: StreamName, data: bytes) -> None:
        overflow = self._overflows.get(stream)
        if overflow is None and self._make_overflow is not None:
            overflow = self._overflows[stream] = self._make_overflow(stream)
            overflow.feed(self._streams[stream].everything() or b"")
        if overflow is not None:
            overflow.feed(data)

    async def accept(self) -> None:
        """Wait until what was fed so far is out of the way."""
        for overflow in list(self._overflows.values()):
            await overflow.flush()

    async def finish_both(self) -> tuple[Captured, Captured]:
        """stdout and stderr, with what was cut of them put away."""
        return await self._finish("stdout"), await self._finish("stderr")

    async def _finish(self, stream: StreamName) -> Captured:
        captured = self.finish(stream)
        if captured.omitted_bytes and stream not in self._overflows:
            # Short enough to be held, too long once its control characters are shown.
            self._overflow(stream, b"")
        overflow = self._overflows.get(stream)
        if overflow is None or not captured.omitted_bytes:
            return captured
        await overflow.flush()
        if not overflow.kept:
            return captured
        return replace(captured, uri=overflow.uri, kept_bytes=overflow.kept)

    def feed_side(self, data: bytes) -> None:
        self._left -= len(data)
        self.side.feed(data)

    def finish(self, stream: StreamName) -> Captured:
        return self._streams[stream].finish()
