"""The last output of a background process: bounded, and what was dropped is counted."""

from collections import deque

ROOM = 256 * 1024
OVERHEAD = 64
"""What each piece counts in addition: many small ones must not take more memory than few large."""
PIECE = 8 * 1024


class Ring:
    """Pieces of two streams (0 and 1) in the order in which they came. A cursor is a number of bytes since
    the start, over both. Pieces end where characters of UTF-8 end, if it is such."""

    def __init__(self):
        self.pieces = deque()
        self.start = self.end = 0
        self.cost = 0
        self.held = [b"", b""]

    def feed(self, stream, data):
        data = self.held[stream] + data
        whole = _whole(data)
        self.held[stream] = data[whole:]
        self._append(stream, data[:whole])

    def finish(self):
        """No more will come: what was no whole character yet never will be."""
        for stream, data in enumerate(self.held):
            self._append(stream, data)
        self.held = [b"", b""]

    def _append(self, stream, data):
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            if self.pieces and self.pieces[-1][0] == stream and len(self.pieces[-1][1]) + len(piece) <= PIECE:
                self.pieces[-1][1].extend(piece)
            else:
                self.pieces.append((stream, bytearray(piece)))
                self.cost += OVERHEAD
            self.cost += len(piece)
            self.end += len(piece)
        while self.cost > ROOM:
            _stream, piece = self.pieces.popleft()
            self.start += len(piece)
            self.cost -= len(piece) + OVERHEAD

    def read(self, cursor, limit):
        """(stdout, stderr, the cursor behind them, how many bytes before them were dropped)."""
        found = (bytearray(), bytearray())
        at = self.start
        here = min(max(cursor, self.start), self.end)
        missed = max(0, self.start - cursor)
        left = limit
        for stream, piece in self.pieces:
            part = piece[max(0, here - at) :] if at + len(piece) > here else b""
            at += len(piece)
            if not part:
                continue
            if len(part) > left:
                part = part[: _whole(part[:left]) or left]
            found[stream].extend(part)
            here += len(part)
            left -= len(part)
            if here < at or left <= 0:
                break
        return bytes(found[0]), bytes(found[1]), here, missed


def _whole(data):
    """How much of `data` does not end in the middle of a character."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF8 else 1
            return len(data) - back if length > back else len(data)
    return len(data)
