"""What runs leave behind, kept on the host for a while: output beyond its bounds, files of one-shot runs.

Here are the books, kept on the event loop; the bytes are in `blobs`. What a program called them is only
ever a key in memory.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox_server.execution.blobs import Blob, Blobs
from sandbox_server.execution.models import StreamName
from sandbox_server.execution.pages import Matches, search

BLOCK = 4096
"""What a file takes at least, so that empty ones have their price too."""


@dataclass(eq=False)
class Deposit:
    """What one run left. `taken` is what it is charged with, in bytes."""

    owner: str
    connection: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    number: int = 0
    expires: float = 0.0
    streams: dict[StreamName, Blob] = field(default_factory=dict)
    files: dict[str, Blob] = field(default_factory=dict)
    taken: int = 0
    gone: bool = False
    names: list[str] = field(default_factory=list)


class Store:
    """An async context manager. Entering empties the directory, leaving removes it.

    At most `total` bytes, half of that for one owner and a quarter for one run; what is over gives way
    oldest first, an owner's own before anybody else's. Each deposit is gone after `ttl` seconds.
    `directory` None: a temporary one.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        total: int,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = Blobs(directory)
        self._total = total
        self._ttl = ttl
        self._clock = clock
        self._deposits: dict[str, Deposit] = {}
        self._taken: dict[str, int] = {}
        self._numbers = 0

    # --- life

    async def __aenter__(self) -> Self:
        await self._blobs.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deposits.clear()
        self._taken.clear()
        await self._blobs.leave()

    # --- the books

    @property
    def taken(self) -> int:
        """Bytes that are charged to anybody."""
        return sum(self._taken.values())

    @asynccontextmanager
    async def deposit(self, owner: str, connection: str | None = None) -> AsyncIterator[Deposit]:
        """For one run: what it has left can be found once this is left without an exception."""
        deposit = Deposit(owner, connection)
        try:
            yield deposit
        except BaseException:
            self._forget(deposit)
            raise
        if deposit.streams or deposit.files:
            self._numbers += 1
            deposit.number, deposit.expires = self._numbers, self._clock() + self._ttl
            self._deposits[deposit.id] = deposit
        else:
            self._forget(deposit)

    def find(self, owner: str, id: str) -> Deposit | None:
        """The deposit of that id, if it is this owner's and its time is not over."""
        deposit = self._deposits.get(id)
        if deposit is None or deposit.owner != owner or deposit.expires <= self._clock():
            return None
        return deposit

    def of(self, owner: str) -> list[Deposit]:
        """An owner's deposits, oldest first."""
        now = self._clock()
        return [each for each in self._deposits.values() if each.owner == owner and each.expires > now]

    async def expire(self) -> None:
        """Remove what is past its time, and the bytes of everything that was given up."""
        now = self._clock()
        for deposit in [each for each in self._deposits.values() if each.expires <= now]:
            self._forget(deposit)
        await self._blobs.clean()

    def claim(self, deposit: Deposit, size: int, *, whole: bool = False) -> int:
        """Charge `size` bytes, or as many as there is room for; with `whole`, all or none."""
        wanted = size
        if deposit.gone:
            return 0
        size = min(size, self._total // 4 - deposit.taken)
        if size < wanted and whole:
            return 0
        size = self._room(size, self._total // 2, lambda: self._taken.get(deposit.owner, 0), deposit.owner)
        size = self._room(size, self._total, lambda: self.taken, None)
        if size <= 0 or (size < wanted and whole):
            return 0
        deposit.taken += size
        self._taken[deposit.owner] = self._taken.get(deposit.owner, 0) + size
        return size

    def _room(self, size: int, limit: int, taken: Callable[[], int], owner: str | None) -> int:
        """As much of `size` as fits under `limit` when the oldest have given way."""
        while size > 0 and taken() + size > limit:
            oldest = self._oldest_of(owner)
            if oldest is None:
                return limit - taken()
            self._forget(oldest)
        return size

    def _oldest_of(self, owner: str | None) -> Deposit | None:
        """An owner's, or whose has the most of those that have any: what a run that goes on holds stays."""
        owners = {each.owner for each in self._deposits.values()}
        if owner is None:
            owner = max(owners, key=lambda each: self._taken.get(each, 0), default=None)
        return next((each for each in self._deposits.values() if each.owner == owner), None)

    def _forget(self, deposit: Deposit) -> None:
        self._deposits.pop(deposit.id, None)
        if deposit.gone:
            return
        deposit.gone = True
        self._blobs.garbage += deposit.names
        left = self._taken.get(deposit.owner, 0) - deposit.taken
        if left > 0:
            self._taken[deposit.owner] = left
        else:
            self._taken.pop(deposit.owner, None)

    # --- the bytes

    async def append(self, deposit: Deposit, name: str, data: bytes) -> bool:
        """Whether it was written. What could not be is the host's trouble, never the run's."""
        if name not in deposit.names:
            deposit.names.append(name)
        try:
            return await self._blobs.append(name, data)
        finally:
            if deposit.gone:
                self._blobs.garbage.append(name)

    def new_file(self, deposit: Deposit, size: int) -> File | None:
        """A place for a file of `size` bytes, or None if there is no room for it."""
        return File(self, deposit) if self.claim(deposit, max(size, BLOCK), whole=True) else None

    async def read(self, blob: Blob, offset: int, limit: int) -> bytes | None:
        """At most `limit` bytes from `offset`; None if it is gone meanwhile."""
        limit = min(limit, blob.size - offset)
        if limit <= 0:
            return b""
        return await self._blobs.with_open(blob, lambda fd: os.pread(fd, limit, offset))

    async def search(self, blob: Blob, needle: bytes, offset: int, limit: int) -> Matches | None:
        """See `pages.search`; None if it is gone meanwhile."""
        return await self._blobs.with_open(
            blob,
            lambda fd: search(
                lambda at, size: os.pread(fd, size, at), blob.size, needle, offset=offset, limit=limit
            ),
        )


class File:
    """A file on its way into the store."""

    def __init__(self, store: Store, deposit: Deposit) -> None:
        self._store = store
        self._deposit = deposit
        self._name = secrets.token_hex(16)
        self.size = 0

    async def append(self, data: bytes) -> bool:
        """Whether it was written."""
        self.size += len(data)
        return await self._store.append(self._deposit, self._name, data)

    @property
    def blob(self) -> Blob:
        return Blob(self._name, self.size)
