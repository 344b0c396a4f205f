"""Response heads as they stand on the wire, checked before the HTTP parser makes something of them.

h11 joins folded lines, takes bare line feeds and skips any number of 1xx responses: all within its
specification, all ways to make two readers see two responses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sandbox_server.errors import UpstreamFailed

MAX_INFORMATIONAL = 4

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_ONCE = (b"content-length", b"transfer-encoding", b"content-encoding", b"content-type", b"location")
_BREAK = re.compile(rb"\r\n\r\n|(?<!\r)\n|\r(?=[^\n])|\x00")


class HeadReader:
    """Fed with what comes from the wire until `done`, which is when the final response's head is complete."""

    def __init__(self, *, max_bytes: int, max_lines: int) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._total = 0
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._informational = 0
        self.done = False

    def feed(self, data: bytes) -> None:
        """Raises UpstreamFailed for a head that is too large or can be read in two ways."""
        self._buffer += data
        while not self.done:
            found = _BREAK.search(self._buffer, self._searched)
            if found is None:
                # The last three bytes may be the beginning of the end.
                self._searched = max(0, len(self._buffer) - 3)
                self._check_size(len(self._buffer))
                return
            if found[0] != b"\r\n\r\n":
                raise protocol("a bare carriage return or line feed, or a NUL, in its headers")
            self._check_size(found.end())
            self._head(bytes(self._buffer[: found.start()]))
            self._total += found.end()
            del self._buffer[: found.end()]
            self._searched = 0

    def _check_size(self, size: int) -> None:
        if self._total + size > self._max_bytes:
            raise UpstreamFailed(
                f"The server sent more than {self._max_bytes:,} bytes of headers.", reason="web.headers"
            )

    def _head(self, head: bytes) -> None:
        status_line, *lines = head.split(b"\r\n")
        status = _STATUS_LINE.fullmatch(status_line)
        if status is None:
            raise protocol("no HTTP/1 status line")
        if len(lines) > self._max_lines:
            raise UpstreamFailed(
                f"The server sent {len(lines):,} header lines; {self._max_lines} are taken.",
                reason="web.headers",
            )
        if any(line.startswith((b" ", b"\t")) for line in lines):
            raise protocol("a folded header line")
        if not status[1].startswith(b"1"):
            _check_framing(lines)
            self.done = True
            return
        self._informational += 1
        if status[1] == b"101" or self._informational > MAX_INFORMATIONAL:
            raise protocol("an upgrade or too many interim responses")


def _check_framing(lines: Sequence[bytes]) -> None:
    """Raises UpstreamFailed where two readers would see bodies of different lengths or kinds."""
    fields = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]
    names = [name for name, _ in fields]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise protocol("both Content-Length and Transfer-Encoding")
    for name in _ONCE:
        if names.count(name) > 1:
            raise protocol(f"{name.decode()} more than once")
    if any(name == b"content-length" and not value.isdigit() for name, value in fields):
        raise protocol("a Content-Length that is no number")


def protocol(what: str) -> UpstreamFailed:
    """The error for a server that sent `what`."""
    return UpstreamFailed(
        f"The server's response was refused: it has {what}.",
        reason="web.protocol",
        hint="Such responses can be taken for two different ones. Nothing of it is shown.",
    )
