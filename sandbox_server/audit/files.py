"""The log on disk: appended to, taken up again after a crash, begun anew when a file is large enough.

Blocking; `log.py` calls it in a thread of its own. What is appended is in the kernel's hands when
`append` returns: it outlives the process, however that dies, but not a power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox_server.audit.chain import GENESIS, MAX_LINE, Broken, Link, seal, unseal
from sandbox_server.errors import ConfigError

PATTERN: Final = "decisions-*.jsonl"
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class _Tail:
    """How a file ends: its last whole line, and what was cut after it."""

    link: Link | None
    torn: bytes = b""
    broken: bool = False


class LogFiles:
    """The one writer of a directory. `max_bytes` is when a file is full, `keep` how many there are."""

    def __init__(
        self,
        directory: Path,
        *,
        stamp: Callable[[], Mapping[str, object]],
        max_bytes: int = 64 * 1024**2,
        keep: int = 16,
    ) -> None:
        self._directory = directory
        self._stamp = stamp
        self._max_bytes = max_bytes
        self._keep = max(keep, 1)
        self._lock = -1
        self._fd = -1
        self._path = directory
        self._size = 0
        self._seq = 0
        self.head = GENESIS
        self.lost = 0
        """Lines that could not be written and that the next one will tell of."""

    def open(self) -> None:
        """Raises ConfigError if another server writes here, OSError if nobody can."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._directory / ".lock", _FLAGS, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError(
                f"another server writes the decision log in {self._directory}",
                hint="give this one another --state-dir or --instance",
            ) from None
        self._take_up()

    def append(self, entries: Iterable[Mapping[str, object]]) -> None:
        """All of them or, with an OSError, none that counts: what was written in part is cut off."""
        if self._lock < 0:
            self.open()
        elif self._fd < 0 or not self._still_there():
            self._close_file()
            self._take_up()
        lines, seq, head = [], self._seq, self.head
        for fields in entries:
            seq += 1
            line, head = seal(fields, seq, head)
            lines.append(line)
        if self._size >= self._max_bytes:
            self._next_file()
        self._write(b"".join(lines))
        self._seq, self.head = seq, head

    def close(self) -> None:
        """Idempotent."""
        self._close_file()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _take_up(self) -> None:
        """After the last whole line on disk. What follows it was cut by a crash: taken off, and told."""
        files = sorted(self._directory.glob(PATTERN))
        opened: dict[str, object] = {"kind": "opened", **self._stamp()}
        self._path = files[-1] if files else self._directory / "decisions-00000001.jsonl"
        self._open_file()
        tail = _tail(self._fd, self._size)
        if tail.torn:
            opened["torn"] = {"bytes": len(tail.torn), "sha256": hashlib.sha256(tail.torn).hexdigest()}
            self._size -= len(tail.torn)
            os.ftruncate(self._fd, self._size)
        if tail.broken:
            opened["after_broken_line"] = True  # `verify` names it; nothing is hidden by going on
        link = tail.link or _last_link(files[:-1])
        if link is not None and link.seq >= self._seq:
            self._seq, self.head = link.seq, link.hash
        if tail.broken or self._size >= self._max_bytes:
            self._next_file()
        if self.lost:
            opened["lost"] = self.lost
        line, head = seal(opened, self._seq + 1, self.head)
        self._write(line)
        self._seq, self.head, self.lost = self._seq + 1, head, 0

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            # The next attempt looks at the file as a new start would: if this fails, too, nothing is hidden.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            self._close_file()
            raise
        self._size += len(data)

    def _next_file(self) -> None:
        number = int(self._path.stem.rpartition("-")[2]) + 1
        os.fsync(self._fd)
        self._close_file()
        self._path = self._directory / f"decisions-{number:08}.jsonl"
        self._open_file()
        for old in sorted(self._directory.glob(PATTERN))[: -self._keep]:
            old.unlink(missing_ok=True)

    def _open_file(self) -> None:
        self._fd = os.open(self._path, _FLAGS, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _still_there(self) -> bool:
        """Somebody may have moved or removed the file: lines must not go where nobody can read them."""
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(self._fd))
        except OSError:
            return False


def _last_link(files: list[Path]) -> Link | None:
    for path in reversed(files):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = _tail(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        if found.link:
            return found.link
    return None


def _tail(fd: int, size: int) -> _Tail:
    length = min(size, 4 * MAX_LINE)
    content = os.pread(fd, length, size - length)
    whole, newline, torn = content.rpartition(b"\n")
    if not newline:
        # Nothing whole in all of it. More than a line can be is not ours, and is left for `verify`.
        return _Tail(None, content) if length == size else _Tail(None, broken=True)
    tail = _Tail(None, torn)
    for line in reversed(whole.split(b"\n")):
        try:
            tail.link = unseal(line)
            return tail
        except Broken:
            tail.broken = True
    return tail
