"""Connections to addresses that were judged, metered: how much comes, how soon and how fast."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import anyio
import httpcore2
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from sandbox_server.access.http.head import HeadReader
from sandbox_server.errors import UpstreamFailed, UpstreamUnreachable
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.web import WebLimits

READ = 16 * 1024
"""Of one read. What a read brings is parsed in one go, while nothing else runs."""
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError)
"""A peer that garbles TLS after the handshake, or ends it with an alert, breaks the connection, too."""


class Meter:
    """What one exchange has had so far, and until when more must come."""

    def __init__(self, limits: WebLimits) -> None:
        self._limits = limits
        self._head = HeadReader(max_bytes=limits.headers, max_lines=limits.header_lines)
        self._began = anyio.current_time()
        self._asked: float | None = None
        self._first: float | None = None
        self.received = 0
        """Bytes of HTTP, as `sent`: before TLS."""
        self.sent = 0
        self.connected: float | None = None
        self.address = ""

    @property
    def first_byte(self) -> float:
        """Seconds from the request to the first byte; 0 before there is one."""
        return 0.0 if self._first is None or self._asked is None else self._first - self._asked

    @property
    def connecting(self) -> float:
        """Seconds until the connection stood, TLS included."""
        return 0.0 if self.connected is None else self.connected - self._began

    def deadline(self) -> float:
        """Until when the next bytes must have come."""
        now = anyio.current_time()
        if self._asked is None:
            self._asked = now
        if not self._head.done:
            return self._asked + self._limits.first_byte
        if not self._limits.min_rate:
            return math.inf
        first = self._first if self._first is not None else now
        return first + self._limits.grace + self.received / self._limits.min_rate

    def late(self) -> UpstreamFailed:
        """The error for a deadline that has passed."""
        if not self._head.done:
            return UpstreamFailed(
                f"The server did not answer within {self._limits.first_byte:g} s.", reason="web.timeout"
            )
        return UpstreamFailed(
            f"The server sent less than {self._limits.min_rate:,} bytes a second.", reason="web.slow"
        )

    def feed(self, data: bytes) -> None:
        """Raises UpstreamFailed for a head that is not taken."""
        if self._first is None and data:
            self._first = anyio.current_time()
        self.received += len(data)
        if not self._head.done:
            self._head.feed(data)


class MeteredStream(httpcore2.AsyncNetworkStream):
    """A connection, plain or with TLS on top. The timeouts it is given are ignored: the meter has its own."""

    def __init__(self, stream: ByteStream, meter: Meter, connect_by: float) -> None:
        self._stream = stream
        self._meter = meter
        self._connect_by = connect_by

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with anyio.CancelScope(deadline=self._meter.deadline()) as scope:
            try:
                data = await self._stream.receive(min(max_bytes, READ))
            except anyio.EndOfStream:
                data = b""
            except _BROKEN:
                raise httpcore2.ReadError from None
        if scope.cancelled_caught:
            raise self._meter.late()
        self._meter.feed(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._stream.send(buffer)
        except _BROKEN:
            raise httpcore2.WriteError from None
        self._meter.sent += len(buffer)

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """The certificate is verified for `server_hostname`, which is the host that was judged."""
        tls: TLSStream | None = None
        try:
            with anyio.CancelScope(deadline=self._connect_by):
                tls = await TLSStream.wrap(
                    self._stream,
                    hostname=server_hostname,
                    ssl_context=ssl_context,
                    standard_compatible=False,
                    server_side=False,
                )
        except ssl.SSLCertVerificationError as error:
            raise UpstreamUnreachable(
                f"The certificate of {server_hostname} was refused: {error.verify_message}.",
                reason="web.certificate",
                hint="If a gateway inspects TLS here, the operator can add its authority to the CA bundle.",
            ) from None
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            raise UpstreamUnreachable(f"TLS with {server_hostname} failed.", reason="web.tls") from None
        finally:
            if tls is None:
                await self.aclose()
        if tls is None:
            raise UpstreamUnreachable(f"TLS with {server_hostname} took too long.", reason="web.timeout")
        self._meter.connected = anyio.current_time()
        return MeteredStream(tls, self._meter, self._connect_by)

    def get_extra_info(self, info: str) -> Any:
        return None


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the given addresses, in order, whatever host it is asked for."""

    def __init__(self, addresses: Sequence[IPAddress], meter: Meter, limits: WebLimits) -> None:
        self._addresses = addresses
        self._meter = meter
        self._limits = limits

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        connect_by = anyio.current_time() + self._limits.connect
        timed_out = False
        for index, address in enumerate(self._addresses):
            # Each gets a share of what is left, so that one that swallows packets doesn't hide the next.
            left = connect_by - anyio.current_time()
            with anyio.move_on_after(left / (len(self._addresses) - index)) as scope:
                try:
                    stream = await anyio.connect_tcp(str(address), port)
                except OSError:
                    continue
                self._meter.connected, self._meter.address = anyio.current_time(), str(address)
                return MeteredStream(stream, self._meter, connect_by)
            timed_out |= scope.cancelled_caught
        what = f"did not answer within {self._limits.connect:g} s" if timed_out else "refused the connection"
        raise UpstreamUnreachable(f"{host}:{port} {what}.", reason="web.connect")
