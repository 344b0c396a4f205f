"""The connections of one sandbox's programs to the way out, as they come over the wire.

Each is a byte stream with a window for each direction, so that what a program or a server sends too fast
waits where it is. A runner that sends more than it may, or numbers as it may not, breaks the protocol.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import ByteStream, TaskGroup

from sandbox_server import wire
from sandbox_server.execution.egress import Outlet
from sandbox_server.wire import Frame, Type

_log = logging.getLogger(__name__)

Send = Callable[[bytes], Awaitable[None]]
SLOT_SECONDS = 0.05
"""For which a connection takes its place at least, however it ends: who connects in a loop must not keep the
server busy."""
_CREDIT_STEP = wire.TUNNEL_WINDOW // 2


class Tunnel(ByteStream):
    """One connection. Used by one task for each direction."""

    def __init__(self, number: int, send: Send) -> None:
        self.number = number
        self.scope = anyio.CancelScope()
        self.born = time.monotonic()
        self.closed = False
        """The runner has said CLOSE."""
        self.released = False
        """We have said CANCEL."""
        self._send = send
        self._credit = wire.TUNNEL_WINDOW
        self._held = bytearray()
        self._owed = 0
        self._ended = False
        self._eof_sent = False
        self._news = anyio.Event()
        self._more_credit = anyio.Event()

    # --- from the wire

    def take(self, frame: Frame) -> None:
        """Handle a frame at once. Raises WireError if it may not come now."""
        if self.closed:
            raise wire.WireError("CLOSE was not the last of a tunnel")
        match frame.type:
            case Type.DATA if not self._ended:
                self._keep(frame.payload)
            case Type.END if not self._ended:
                self._ended = True
            case Type.CREDIT:
                self._credit += int.from_bytes(frame.payload[:4], "big")
                if self._credit > wire.TUNNEL_WINDOW:
                    raise wire.WireError("credit for what was never sent")
                self._more_credit.set()
            case Type.CLOSE:
                self.lose()
            case _:
                raise wire.WireError(f"{frame.type.name} on a tunnel")
        self._news.set()

    def _keep(self, data: bytes) -> None:
        if len(self._held) + self._owed + len(data) > wire.TUNNEL_WINDOW:
            raise wire.WireError("more than there was credit for")
        if not self.released:
            self._held += data

    def lose(self) -> None:
        """There is nobody at the other end any more."""
        self.closed = True
        self._held.clear()
        self._news.set()
        self._more_credit.set()
        self.scope.cancel()

    # --- for whoever serves it

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self._held:
            if self._ended or self.closed or self.released:
                raise anyio.EndOfStream
            self._news = anyio.Event()
            await self._news.wait()
        data = bytes(self._held[:max_bytes])
        del self._held[: len(data)]
        self._owed += len(data)
        if self._owed >= _CREDIT_STEP and not self._ended:
            owed, self._owed = self._owed, 0
            await self._send(wire.encode_credit(self.number, owed))
        return data

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        while view:
            if self.closed or self.released or self._eof_sent:
                raise anyio.BrokenResourceError
            if self._credit <= 0:
                self._more_credit = anyio.Event()
                await self._more_credit.wait()
                continue
            piece = view[: min(self._credit, wire.MAX_FROM_RUNNER)]
            self._credit -= len(piece)
            view = view[len(piece) :]
            await self._send(wire.encode(Type.DATA, self.number, bytes(piece)))

    async def send_eof(self) -> None:
        if not (self._eof_sent or self.closed or self.released):
            self._eof_sent = True
            await self._send(wire.encode(Type.END, self.number))

    async def aclose(self) -> None:
        """Let go of it: what was sent still reaches the program, nothing more is heard of it."""
        if not self.released:
            self.released = True
            self._held.clear()
            self._news.set()
            await self._send(wire.encode(Type.CANCEL, self.number))


class Tunnels:
    """All tunnels of one sandbox. One outlet serves them between `begin` and `shut`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._tasks: TaskGroup | None = None
        self._outlet: Outlet | None = None
        self._most = 0
        self._open: dict[int, Tunnel] = {}
        self._last = wire.FIRST_TUNNEL - 1

    def __len__(self) -> int:
        return len(self._open)

    def start(self, tasks: TaskGroup) -> None:
        """They are served in `tasks`, which ends with the sandbox."""
        self._tasks = tasks

    def begin(self, outlet: Outlet) -> int:
        """From now on, until `shut`, the runner may accept. Returns how many at once."""
        self._outlet, most = outlet, outlet.tunnels
        # What it was told before may still hold when its next connection comes.
        self._most = max(self._most, most)
        return most

    def shut(self) -> None:
        """Nobody uses its connections any more."""
        self._outlet, self._most = None, 0
        for tunnel in self._open.values():
            tunnel.scope.cancel()

    def lose(self) -> None:
        """The sandbox is gone."""
        self.shut()
        for tunnel in self._open.values():
            tunnel.lose()

    def take(self, frame: Frame) -> None:
        """Handle a frame of a tunnel. Raises WireError."""
        if frame.type is Type.ACCEPT:
            self._accept(frame.channel)
            return
        tunnel = self._open.get(frame.channel)
        if tunnel is None:
            raise wire.WireError(f"{frame.type.name} on a tunnel that there is not")
        tunnel.take(frame)
        self._forget(tunnel)

    def _accept(self, number: int) -> None:
        if self._outlet is None or self._tasks is None:
            raise wire.WireError("a connection although nothing has a way out")
        if number <= self._last or len(self._open) >= self._most:
            raise wire.WireError("one tunnel too many")
        self._last = number
        tunnel = self._open[number] = Tunnel(number, self._send)
        self._tasks.start_soon(self._serve, tunnel, self._outlet)

    def _forget(self, tunnel: Tunnel) -> None:
        if tunnel.closed and tunnel.released:
            self._open.pop(tunnel.number, None)

    async def _serve(self, tunnel: Tunnel, outlet: Outlet) -> None:
        try:
            await self._served(tunnel, outlet)
            await anyio.sleep(max(0.0, tunnel.born + SLOT_SECONDS - time.monotonic()))
        finally:
            with anyio.CancelScope(shield=True):
                await tunnel.aclose()
            self._forget(tunnel)

    async def _served(self, tunnel: Tunnel, outlet: Outlet) -> None:
        try:
            with tunnel.scope:
                await outlet.serve(tunnel)
                await tunnel.send_eof()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the program has gone
        except Exception:
            # A bug of ours costs this connection, not the sandbox.
            _log.exception("a connection out of a sandbox failed")
