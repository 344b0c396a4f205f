"""Bodies, decompressed piece by piece and never further than a limit."""

from __future__ import annotations

import zlib

import anyio.lowlevel

from sandbox_server.access.http.head import protocol
from sandbox_server.errors import UpstreamFailed

OFFERED = "gzip, deflate"
_STEP = 256 * 1024
"""Decompressed at once, while nothing else runs."""


class Decoder:
    """Collects at most `limit` bytes. `full` once there is more than that."""

    def __init__(self, encoding: str, limit: int) -> None:
        """Raises UpstreamFailed for an encoding that was not offered; two at once never are."""
        self._inflate = _inflater(encoding.strip().lower())
        self._deflate = encoding.strip().lower() == "deflate"
        self._limit = limit
        self._body = bytearray()
        self.full = False

    async def feed(self, data: bytes) -> None:
        """Raises UpstreamFailed for what can't be decompressed."""
        if self._inflate is None:
            self._keep(data)
            return
        if self._deflate and not self._body:
            # "deflate" is zlib's format, or for some servers what is inside it. The first byte tells.
            self._deflate = False
            if data and data[0] & 0x0F != 8:
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        while data and not self.full:
            if self._inflate.eof:
                raise protocol("data after the end of its compressed body")
            try:
                self._keep(self._inflate.decompress(data, _STEP))
            except zlib.error:
                raise UpstreamFailed("The body can't be decompressed.", reason="web.encoding") from None
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            if data:
                await anyio.lowlevel.checkpoint()

    def finish(self) -> tuple[bytes, bool]:
        """The body, and whether it is all that the server compressed."""
        return bytes(self._body), self._inflate is None or self._inflate.eof or not self._body

    def _keep(self, data: bytes) -> None:
        room = self._limit - len(self._body)
        self._body += data[:room]
        self.full = len(data) > room


def _inflater(encoding: str) -> zlib._Decompress | None:
    match encoding:
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        case "deflate":
            return zlib.decompressobj()
        case _:
            raise UpstreamFailed(
                "The server compressed the body in a way that was not offered.",
                reason="web.encoding",
                hint=f"Offered were: {OFFERED}.",
            )
