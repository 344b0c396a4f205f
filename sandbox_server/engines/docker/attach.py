"""The attached stream of a container: an async socket of our own, no thread held per sandbox.

The engine's HTTP upgrade is spoken here rather than by the Docker library, because that one
leaves bytes that arrive together with the response head in a buffered reader that nobody
reads, ties the socket's life to a response object, and can't be cancelled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR, SO_SNDBUF, SOL_SOCKET
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from sandbox_server.engines.docker.client import engine_down, engine_silent, sanitise
from sandbox_server.errors import ConfigError, EngineUnavailable

HEADER = struct.Struct(">BxxxL")
"""The engine's own multiplexing: stream number, three zero bytes, length."""
STDOUT = 1
MAX_HEAD = 16 * 1024
DIAGNOSTICS = 4 * 1024
"""Bytes of the runner's stderr that are kept: its last words, if it dies."""
_CHUNK = 64 * 1024
_SEND_BUFFER = 512 * 1024
"""Bytes, where the kernel allows as many: each time it is full costs a turn of the event loop."""
_TURNS_TO_LEAVE = 20
"""Turns of the event loop; two or three are enough."""


class AttachStream(ByteStream):
    """Stdin and stdout of a container as one byte stream; stderr is kept aside, bounded."""

    def __init__(self, socket: SocketStream, leftover: bytes = b"") -> None:
        self._socket = socket
        self._head = b""
        self._kind = STDOUT
        self._left = 0
        self._diagnostics = bytearray()
        self._ready = self._demultiplex(leftover)
        self.ended = False
        self._waiting = 0

    async def receive(self, max_bytes: int = _CHUNK) -> bytes:
        """The next bytes of stdout. Raises EndOfStream when the container's end is reached."""
        while not self._ready:
            try:
                with self._wait():
                    chunk = await self._socket.receive(max(max_bytes, _CHUNK))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                self.ended = True
                raise
            self._ready = self._demultiplex(chunk)
        data = self._ready[:max_bytes]
        self._ready = self._ready[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        """Write to stdin; waits while the container doesn't read."""
        with self._wait():
            await self._socket.send(item)

    @contextmanager
    def _wait(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def send_eof(self) -> None:
        """End stdin; the container's output can still be read."""
        await self._socket.send_eof()

    async def aclose(self) -> None:
        """Detach. The engine then ends the container's stdin."""
        # Who waits for the socket is woken by the stream's end and has left before it closes: closing under
        # a reader at the moment when data comes makes anyio answer it twice, an error in the event loop.
        with suppress(OSError):
            self._socket.extra(SocketAttribute.raw_socket).shutdown(SHUT_RDWR)  # noqa: S610 - not Django's
        for _ in range(_TURNS_TO_LEAVE):
            if not self._waiting:
                break
            await anyio.lowlevel.cancel_shielded_checkpoint()
        await self._socket.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the socket."""
        return self._socket.extra_attributes

    @property
    def diagnostics(self) -> str:
        """The end of what the runner wrote to stderr, made printable."""
        text = self._diagnostics.decode("utf-8", "replace")
        return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text).strip()

    def _demultiplex(self, chunk: bytes) -> bytes:
        # The common case is one chunk from the middle of one long piece: no copy then.
        if self._left >= len(chunk) and self._kind == STDOUT:
            self._left -= len(chunk)
            return chunk
        pieces: list[memoryview] = []
        view = memoryview(chunk)
        start = 0
        while start < len(chunk):
            if self._left == 0:
                needed = HEADER.size - len(self._head)
                self._head += chunk[start : start + needed]
                start += needed
                if len(self._head) < HEADER.size:
                    break
                self._kind, self._left = HEADER.unpack(self._head)
                self._head = b""
                continue
            piece = view[start : start + self._left]
            start += len(piece)
            self._left -= len(piece)
            if self._kind == STDOUT:
                pieces.append(piece)
            else:
                self._diagnostics += piece
                del self._diagnostics[:-DIAGNOSTICS]
        return b"".join(pieces)


async def attach(base_url: str, api_version: str, container: str, *, timeout: float = 30) -> AttachStream:
    """Attach to a container's stdin, stdout and stderr, before it is started so that no byte is lost.

    Raises EngineUnavailable or ConfigError; leaves no socket open when it raises or is cancelled.
    """
    request = (
        f"POST /v{api_version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
        "Host: docker\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    try:
        with anyio.fail_after(timeout):
            socket = await _connect(base_url)
            try:
                raw = socket.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
                raw.setsockopt(SOL_SOCKET, SO_SNDBUF, _SEND_BUFFER)
                await socket.send(request.encode("ascii"))
                return AttachStream(socket, await _read_head(socket))
            except BaseException:
                await anyio.aclose_forcefully(socket)
                raise
    except TimeoutError as error:
        raise engine_silent() from error
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise engine_down(error) from error


async def _connect(base_url: str) -> SocketStream:
    scheme, _, address = base_url.partition("://")
    if scheme == "unix":
        return await anyio.connect_unix(address if address.startswith("/") else f"/{address}")
    host, _, port = address.rstrip("/").rpartition(":")
    if not port.isdecimal():
        raise ConfigError(f"engine address {base_url!r} has no port", hint="e.g. tcp://127.0.0.1:2375")
    return await anyio.connect_tcp(host.strip("[]"), int(port))


async def _read_head(socket: SocketStream) -> bytes:
    """Read the response head; returns the bytes of the stream that came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > MAX_HEAD:
            raise EngineUnavailable(
                "the Docker Engine answers with nonsense", hint="run: sandbox-server doctor"
            )
        data += await socket.receive()
    head, _, rest = data.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status not in ([b"101"], [b"200"]):
        raise EngineUnavailable(
            f"the engine refuses to attach: {_reason(rest)}", hint="run: sandbox-server doctor"
        )
    return rest


def _reason(body: bytes) -> str:
    try:
        return sanitise(str(json.loads(body)["message"]))
    except (ValueError, KeyError, TypeError):
        return "no reason given"
