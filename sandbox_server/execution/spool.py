"""A stream of a run on its way into the store."""

from __future__ import annotations

import secrets

import anyio

from sandbox_server.execution.blobs import Blob
from sandbox_server.execution.models import StreamName
from sandbox_server.execution.store import BLOCK, Deposit, Store
from sandbox_server.execution.uris import stream_uri


class Spool:
    """`feed` never waits; `flush` waits for the disk.

    Keeps the beginning, as much as there is room for; `kept` counts it.
    """

    def __init__(self, store: Store, deposit: Deposit, stream: StreamName) -> None:
        self._store = store
        self._deposit = deposit
        self._stream = stream
        self._name = secrets.token_hex(16)
        self.uri = stream_uri(deposit.id, stream)
        self._pending = bytearray()
        self._full = False
        self._paid = 0
        self._lock = anyio.Lock()
        self.kept = 0

    def feed(self, data: bytes) -> None:
        if not self._full:
            self._pending += data

    async def flush(self) -> None:
        """Write what is pending. Raises nothing for a disk that is full."""
        async with self._lock:
            data = bytes(self._pending)
            self._pending.clear()
            if self._full or not data:
                return
            room = self._take(len(data))
            self._full = room < len(data)
            if not room:
                return
            if await self._store.append(self._deposit, self._name, data[:room]):
                self.kept += room
                self._deposit.streams[self._stream] = Blob(self._name, self.kept)
            else:
                self._full = True

    def _take(self, size: int) -> int:
        """Room for `size` bytes or less, charged by the block: tiny outputs cost us more than their bytes."""
        if self._paid < size:
            self._paid += self._store.claim(self._deposit, max(size - self._paid, BLOCK))
        room = min(size, self._paid)
        self._paid -= room
        return room
