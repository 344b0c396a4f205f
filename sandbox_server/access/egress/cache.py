"""Files of packages that never change under their URL, kept on the host for the next sandbox.

Only what a server has said itself comes in, over TLS that was checked: a whole answer to a request of our own
words, so nothing that a program sends decides what is kept. Whether a program may have a file is judged by
the policy before it is looked for here. Package managers check hashes besides, as with any mirror.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import anyio
import anyio.to_thread
import h11

from sandbox_server.access.egress.headers import Headers, values
from sandbox_server.guards.urls import Url

MIB: Final = 1024**2
SIZE: Final = 1024 * MIB
MOST_FILES: Final = 20_000
MOST_WRITERS: Final = 8
_ABANDONED: Final = 3600.0
_SHARE: Final = 4
"""One file may take this part of it all, as may those that are still coming, besides what is kept."""

PLAIN_HEADERS: Final[Headers] = [
    (b"host", b"set-by-the-proxy"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"sandbox-server"),
]
_IMMUTABLE: Final = (".whl", ".whl.metadata", ".tgz")
_PERSONAL: Final = (
    b"authorization",
    b"cookie",
    b"range",
    b"if-range",
    b"content-length",
    b"transfer-encoding",
)
_NAME: Final = re.compile(r"[0-9a-f]{64}")


def cacheable(request: h11.Request, url: Url, inject: Mapping[str, str]) -> bool:
    """Whether the answer is the same for everybody and for ever."""
    return (
        request.method == b"GET"
        and url.scheme == "https"
        and not url.query
        and url.path.endswith(_IMMUTABLE)
        and not inject
        and not any(values(request.headers, name) for name in _PERSONAL)
    )


class KeptFile:
    """One of the store's, for reading."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    async def read(self, most: int) -> bytes:
        return await anyio.to_thread.run_sync(self._file.read, most)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class FileCache:
    """At most `size` bytes in `directory`, which is the server's own; what was not used for longest goes.

    A file's name is any text that says which is meant. Servers may share it: a file appears whole, by being
    renamed. A store that fails is a miss."""

    def __init__(self, directory: Path, size: int = SIZE) -> None:
        self._directory = directory
        self._size = size
        self._writers = 0
        self._coming = 0
        self.hits = 0
        self.misses = 0

    async def open(self, name: str) -> KeptFile | None:
        found = await anyio.to_thread.run_sync(self._open, self._path(name))
        self.hits += found is not None
        self.misses += found is None
        return found

    @asynccontextmanager
    async def writer(self, name: str) -> AsyncIterator[CacheWriter | None]:
        """None: nothing more can be kept now. What is not finished in there is not kept."""
        if self._writers >= MOST_WRITERS:
            yield None
            return
        self._writers += 1
        writer = CacheWriter(self, self._path(name))
        try:
            yield writer
        finally:
            self._writers -= 1
            writer.drop()

    def _path(self, name: str) -> Path:
        return self._directory / hashlib.sha256(name.encode()).hexdigest()

    def _open(self, path: Path) -> KeptFile | None:
        try:
            file = path.open("rb")
        except OSError:
            return None
        kept = KeptFile(file)
        if not kept.size:
            file.close()
            return None
        with suppress(OSError):
            os.utime(path)
        return kept

    # --- for the writer

    def reserve(self, size: int) -> bool:
        """Whether there is room for one more of that size, which it then has until `release`."""
        if not 0 < size <= self._size // _SHARE - self._coming:
            return False
        self._coming += size
        return True

    def release(self, size: int) -> None:
        self._coming -= size

    def make(self, path: Path) -> tuple[Path, BinaryIO]:
        """Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(f".{secrets.token_hex(8)}.part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return part, os.fdopen(fd, "wb")

    def keep(self, file: BinaryIO, part: Path, path: Path) -> None:
        """Raises OSError."""
        with file:
            file.flush()
            os.fsync(file.fileno())  # or a failing power supply leaves the name without its content
        part.replace(path)
        self._clear_parts()
        files = sorted(self._files(), reverse=True)
        total = 0
        for count, (_, size, each) in enumerate(files, 1):
            total += size
            if (total > self._size or count > MOST_FILES) and each != path:
                each.unlink(missing_ok=True)

    def _files(self) -> Iterable[tuple[float, int, Path]]:
        for entry in os.scandir(self._directory):
            if _NAME.fullmatch(entry.name):
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    yield found.st_mtime, found.st_size, Path(entry.path)

    def _clear_parts(self) -> None:
        """What a server that was killed has left half written; another one may be writing its own."""
        for part in self._directory.glob("*.part"):
            with suppress(OSError):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()


class CacheWriter:
    """One answer on its way into the store. It raises nothing: what can't be kept is not kept."""

    def __init__(self, cache: FileCache, path: Path) -> None:
        self._cache = cache
        self._path = path
        self._part: Path | None = None
        self._file: BinaryIO | None = None
        self._reserved = 0
        self._left = 0

    async def begin(self, status: int, headers: Headers) -> None:
        size = _size_of(status, headers)
        if size is None or not self._cache.reserve(size):
            return
        self._reserved = size
        try:
            self._part, self._file = await anyio.to_thread.run_sync(self._cache.make, self._path)
            self._left = size
        except OSError:
            self.drop()

    async def write(self, data: bytes) -> None:
        if self._file is None:
            return
        self._left -= len(data)
        try:
            await anyio.to_thread.run_sync(self._file.write, data)
        except OSError:
            self.drop()

    async def finish(self) -> None:
        """The answer was whole."""
        if self._file is None or self._part is None or self._left != 0:
            return
        file, part = self._file, self._part
        try:
            await anyio.to_thread.run_sync(self._cache.keep, file, part, self._path)
            self._part = None
        except OSError:
            pass
        finally:
            self.drop()

    def drop(self) -> None:
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
            if self._part is not None:
                self._part.unlink(missing_ok=True)
        self._file = self._part = None
        self._cache.release(self._reserved)
        self._reserved = 0


def _size_of(status: int, headers: Headers) -> int | None:
    """Of an answer that may be kept for everybody; None: it may not."""
    lengths, codings = values(headers, b"content-length"), values(headers, b"content-encoding")
    control = b",".join(values(headers, b"cache-control")).lower()
    if status != 200 or len(lengths) != 1 or codings not in ([], [b"identity"]):
        return None
    if b"no-store" in control or b"private" in control or values(headers, b"set-cookie"):
        return None
    return int(lengths[0])
