"""What runs leave behind, kept on the host for a while: output beyond its bounds, files of one-shot runs.

The bytes lie under random names in a directory that is ours alone; what a program called them is only
ever a key in memory. The books are kept on the event loop, the disk is touched in threads of our own.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import anyio
from anyio import to_thread

from sandbox_server.errors import ConfigError
from sandbox_server.execution.models import StreamName
from sandbox_server.execution.pages import Matches, search
from sandbox_server.execution.uris import stream_uri

T = TypeVar("T")

_log = logging.getLogger(__name__)

_BLOCK = 4096
"""What a file takes at least, so that empty ones have their price too."""
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in the store. `name` is random; nobody outside the store sees it."""

    name: str
    size: int


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
        self._directory = directory
        self._total = total
        self._ttl = ttl
        self._clock = clock
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._deposits: dict[str, Deposit] = {}
        self._taken: dict[str, int] = {}
        self._garbage: list[str] = []
        self._numbers = 0

    # --- life

    async def __aenter__(self) -> Self:
        try:
            self._directory = await self._in_thread(_prepare, self._directory)
        except OSError as error:
            raise ConfigError(
                f"the store {self._directory} can't be used: {error.strerror or error}",
                hint="remove it, or give another --state-dir",
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deposits.clear()
        self._taken.clear()
        with anyio.CancelScope(shield=True):
            try:
                await self._in_thread(clear, self._path)
            except OSError as problem:
                _log.warning("the store is left for the next start to empty: %s", problem)

    @property
    def _path(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the store was not entered")
        return self._directory

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await to_thread.run_sync(partial(work, *arguments), limiter=self._limiter)

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
        try:
            if self._garbage:
                await self._in_thread(self._clean)
        except OSError as error:
            _log.warning("bytes in the store could not be removed: %s", error.strerror)

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
        self._garbage += deposit.names
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
            await self._in_thread(self._append, name, data)
            return True
        except OSError as error:
            _log.warning("output or a file of a run is not kept: %s", error.strerror)
            return False
        finally:
            if deposit.gone:
                self._garbage.append(name)

    def new_file(self, deposit: Deposit, size: int) -> File | None:
        """A place for a file of `size` bytes, or None if there is no room for it."""
        return File(self, deposit) if self.claim(deposit, max(size, _BLOCK), whole=True) else None

    async def read(self, blob: Blob, offset: int, limit: int) -> bytes | None:
        """At most `limit` bytes from `offset`; None if it is gone meanwhile."""
        limit = min(limit, blob.size - offset)
        if limit <= 0:
            return b""
        return await self._with_open(blob, lambda fd: os.pread(fd, limit, offset))

    async def search(self, blob: Blob, needle: bytes, offset: int, limit: int) -> Matches | None:
        """See `pages.search`; None if it is gone meanwhile."""
        return await self._with_open(
            blob,
            lambda fd: search(
                lambda at, size: os.pread(fd, size, at), blob.size, needle, offset=offset, limit=limit
            ),
        )

    async def _with_open(self, blob: Blob, work: Callable[[int], T]) -> T | None:
        def opened() -> T | None:
            try:
                fd = os.open(self._path / blob.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None  # empty, or given up meanwhile
            try:
                return work(fd)
            finally:
                os.close(fd)

        return await self._in_thread(opened)

    def _append(self, name: str, data: bytes) -> None:
        self._clean()  # what gave way for this goes first
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path / name, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def _clean(self) -> None:
        """In a thread. Two may do this at once: taking a name off the list is atomic."""
        while self._garbage:
            try:
                name = self._garbage.pop()
            except IndexError:
                return
            (self._path / name).unlink(missing_ok=True)


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


class Spool:
    """A stream on its way into the store. `feed` never waits; `flush` waits for the disk.

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
            self._paid += self._store.claim(self._deposit, max(size - self._paid, _BLOCK))
        room = min(size, self._paid)
        self._paid -= room
        return room


def clear(directory: Path) -> None:
    """Remove a store's directory and the bytes in it. Blocks."""
    try:
        _check(directory)
    except FileNotFoundError:
        return
    _remove(directory.iterdir())
    directory.rmdir()


def _prepare(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="sandbox-store-"))
    clear(directory)
    directory.mkdir(mode=0o700, parents=True)
    return directory


def _check(directory: Path) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(1, "is not a directory of this server's user", str(directory))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
