"""A program's end of a connection: counted, capped, with a clock; what was read too early can be put back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
import h11
from anyio.abc import ByteStream

from sandbox_server.access.egress.models import Refused
from sandbox_server.guards.web import EgressLimits

CHUNK = 64 * 1024


class CapReached(Exception):
    """The sandbox has sent or got all that it may."""


ENDS: tuple[type[BaseException], ...] = (
    Refused,
    CapReached,
    h11.ProtocolError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    OSError,
)
"""How a connection ends because of a program, a server or the policy."""


@dataclass
class Meter:
    """Bytes over all connections of one sandbox."""

    bytes_out: int = 0
    bytes_in: int = 0
    cached: int = 0
    """Files that came from the host's own store."""

    def used_up(self, limits: EgressLimits) -> str:
        """The limit that leaves nothing, or an empty string."""
        if self.bytes_out >= limits.bytes_out:
            return "bytes_out"
        return "bytes_in" if self.bytes_in >= limits.bytes_in else ""


class Client(ByteStream):
    """Wraps a tunnel. `moved` is when a byte last went either way, by the monotonic clock."""

    def __init__(
        self, tunnel: ByteStream, meter: Meter, limits: EgressLimits, spend: Callable[[int], str]
    ) -> None:
        self._tunnel = tunnel
        self._meter = meter
        self._limits = limits
        self._spend = spend
        self._again = bytearray()
        self.bytes_out = 0
        self.bytes_in = 0
        self.moved = time.monotonic()
        self.answering = bool(meter.used_up(limits))
        """A refusal may be told even when nothing is left."""
        self.granted = False
        """Something was allowed: what comes now goes on. Before, whoever judges looks at the quota."""

    def count_cached(self) -> None:
        self._meter.cached += 1

    @property
    def used_up(self) -> str:
        """The limit of the sandbox that leaves nothing, or an empty string."""
        return self._meter.used_up(self._limits)

    def unread(self, data: bytes) -> None:
        """Put back what will be received next."""
        self._again[:0] = data

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        """Raises CapReached instead of handing over what is too much."""
        if self._again:
            data = bytes(self._again[:max_bytes])
            del self._again[: len(data)]
            return data
        data = await self._tunnel.receive(max_bytes)
        self.moved = time.monotonic()
        self.bytes_out += len(data)
        self._meter.bytes_out += len(data)
        if self._meter.bytes_out > self._limits.bytes_out and not self.answering:
            raise CapReached("bytes_out")
        over = self._spend(len(data))
        if over and self.granted and not self.answering:
            raise CapReached(over)
        return data

    async def exactly(self, count: int) -> bytes:
        """Raises EndOfStream."""
        data = b""
        while len(data) < count:
            data += await self.receive(count - len(data))
        return data

    async def send(self, item: bytes) -> None:
        """Raises CapReached before it sends too much."""
        if not self.answering and self._meter.bytes_in + len(item) > self._limits.bytes_in:
            raise CapReached("bytes_in")
        self.bytes_in += len(item)
        self._meter.bytes_in += len(item)
        await self._tunnel.send(item)
        self.moved = time.monotonic()

    async def send_eof(self) -> None:
        await self._tunnel.send_eof()

    async def aclose(self) -> None:
        await self._tunnel.aclose()


@contextmanager
def flat() -> Iterator[None]:
    """What a task group raises, as its first error; a bug of ours before what a peer has caused."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        raise next((leaf for leaf in leaves if not isinstance(leaf, ENDS)), leaves[0]) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def relay(one: ByteStream, other: ByteStream) -> None:
    """Carry bytes both ways until both sides have ended, or one has broken."""
    with flat():
        await _relay(one, other)


async def _relay(one: ByteStream, other: ByteStream) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_one_way, one, other, tasks.cancel_scope)
        await _one_way(other, one, tasks.cancel_scope)


async def _one_way(source: ByteStream, sink: ByteStream, scope: anyio.CancelScope) -> None:
    try:
        while True:
            await sink.send(await source.receive(CHUNK))
    except anyio.EndOfStream:
        try:
            await sink.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, NotImplementedError, OSError):
            scope.cancel()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        scope.cancel()
