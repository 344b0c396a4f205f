"""The store's bytes on the disk: under random names in a directory that is ours alone.

The disk is touched in threads of our own; what a program called its bytes never gets here.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread

from sandbox_server.errors import ConfigError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_THREADS = 4


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in the store. `name` is random; nobody outside the store sees it."""

    name: str
    size: int


class Blobs:
    """Their directory; None: a temporary one. `garbage` are names that nobody needs any more."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self.garbage: list[str] = []

    @property
    def path(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the store was not entered")
        return self._directory

    async def enter(self) -> None:
        """Empty the directory, or make it. Raises ConfigError if that can't be done."""
        try:
            self._directory = await self._in_thread(_prepare, self._directory)
        except OSError as error:
            raise ConfigError(
                f"the store {self._directory} can't be used: {error.strerror or error}",
                hint="remove it, or give another --state-dir",
            ) from None

    async def leave(self) -> None:
        """Remove the directory."""
        with anyio.CancelScope(shield=True):
            try:
                await self._in_thread(clear, self.path)
            except OSError as problem:
                _log.warning("the store is left for the next start to empty: %s", problem)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await to_thread.run_sync(partial(work, *arguments), limiter=self._limiter)

    async def append(self, name: str, data: bytes) -> bool:
        """Whether it was written. What could not be is the host's trouble, never the run's."""
        try:
            await self._in_thread(self._append, name, data)
            return True
        except OSError as error:
            _log.warning("output or a file of a run is not kept: %s", error.strerror)
            return False

    async def clean(self) -> None:
        """Remove the garbage."""
        try:
            if self.garbage:
                await self._in_thread(self._clean)
        except OSError as error:
            _log.warning("bytes in the store could not be removed: %s", error.strerror)

    async def with_open(self, blob: Blob, work: Callable[[int], T]) -> T | None:
        """What `work` makes of a descriptor of it; None if it is gone."""

        def opened() -> T | None:
            try:
                fd = os.open(self.path / blob.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
        fd = os.open(self.path / name, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def _clean(self) -> None:
        """In a thread. Two may do this at once: taking a name off the list is atomic."""
        while self.garbage:
            try:
                name = self.garbage.pop()
            except IndexError:
                return
            (self.path / name).unlink(missing_ok=True)


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
