"""One request to one judged URL and its response: no redirect is followed here."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import httpcore2

from sandbox_server.access.http.decoding import Decoder
from sandbox_server.access.http.head import protocol
from sandbox_server.access.http.wire import CheckedBackend, Meter
from sandbox_server.errors import UpstreamFailed
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebLimits

MAX_PIECES = 20_000
"""Chunks of one response. A body in chunks of a byte costs us far more than it costs its sender."""
_CLOSE_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class Content:
    """A body as far as it was read, decompressed. `cut` says why there is more; empty: this is all."""

    data: bytes
    received: int
    cut: str = ""


class Answer:
    """A response whose head has come. The body is read once, or not at all."""

    def __init__(
        self, response: httpcore2.Response, limits: WebLimits, meter: Meter, *, bodiless: bool
    ) -> None:
        self.status = response.status
        self.headers = [
            (name.decode("ascii").lower(), value.decode("latin-1")) for name, value in response.headers
        ]
        self.meter = meter
        self._response = response
        self._limits = limits
        self._bodiless = bodiless or response.status in (204, 304)

    def header(self, name: str) -> str:
        return next((value for each, value in self.headers if each == name), "")

    async def content(self) -> Content:
        """Raises UpstreamFailed for a body that is too slow, or can't be decompressed."""
        if self._bodiless:
            return Content(b"", 0)
        decoder = Decoder(self.header("content-encoding"), self._limits.decoded)
        received = pieces = 0
        cut = ""
        try:
            async for piece in self._response.aiter_stream():
                pieces += 1
                room = self._limits.body - received
                received += min(len(piece), room)
                await decoder.feed(piece[:room])
                cut = _cut(decoder, len(piece) > room, pieces, self._limits)
                if cut:
                    break
                if pieces % 64 == 0:
                    await anyio.lowlevel.checkpoint()
        except (httpcore2.RemoteProtocolError, httpcore2.ReadError):
            cut = "the connection ended before the body did"
        data, whole = decoder.finish()
        return Content(data, received, cut or ("" if whole else "the compressed body ends too early"))


def _cut(decoder: Decoder, over: bool, pieces: int, limits: WebLimits) -> str:
    if decoder.full:
        return f"only {limits.decoded:,} decompressed bytes are taken"
    if over:
        return f"only {limits.body:,} bytes are taken"
    return f"it came in more than {MAX_PIECES:,} pieces" if pieces > MAX_PIECES else ""


@asynccontextmanager
async def exchange(
    method: str,
    url: Url,
    headers: Iterable[tuple[str, str]],
    body: bytes | None,
    *,
    addresses: Sequence[IPAddress],
    limits: WebLimits,
    tls: ssl.SSLContext,
    meter: Meter,
) -> AsyncIterator[Answer]:
    """Sends the request to one of `addresses`, all of which have been judged, on a connection of its own.

    Raises UpstreamFailed. The connection is closed at the end: nothing of it is there for another request.
    """
    host = url.host.strip("[]").encode()
    scheme = url.scheme.encode()
    connection = httpcore2.AsyncHTTPConnection(
        origin=httpcore2.Origin(scheme=scheme, host=host, port=url.port),
        ssl_context=tls,
        network_backend=CheckedBackend(addresses, meter, limits),
    )
    request = httpcore2.Request(
        method,
        httpcore2.URL(scheme=scheme, host=host, port=url.port, target=url.target.encode()),
        headers=[(name.encode(), value.encode()) for name, value in headers],
        content=body,
    )
    try:
        try:
            response = await connection.handle_async_request(request)
        except httpcore2.RemoteProtocolError:
            raise protocol("something that is not HTTP/1") from None
        except (httpcore2.ReadError, httpcore2.WriteError):
            raise UpstreamFailed(
                "The connection broke before the answer came.", reason="web.broken"
            ) from None
        yield Answer(response, limits, meter, bodiless=method == "HEAD")
    finally:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _CLOSE_WITHIN):
            await connection.aclose()
