"""Which deployment this process is: an id that outlives restarts, and a proof that it is alone.

A server that was killed leaves containers behind; the next start finds them by the deployment's
id. Two servers of one user must not share an id, or each would sweep away the other's
containers as leftovers. So the id stands in a slot file on which its owner holds an exclusive
lock for as long as it lives, which the kernel drops however it dies: a slot that can be locked
has no live owner, and what carries its id is a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from sandbox_server.errors import ConfigError

_SLOTS: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_ID: Final = re.compile(rb"[0-9a-f]{32}\n")


@dataclass(slots=True)
class Lease:
    """A slot that this process holds. `id` is what its containers are labelled with."""

    slot: str
    id: str
    _fd: int

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def take_instance(state_dir: Path, name: str | None = None) -> Lease:
    """The first free slot, or the one called `name`. Raises ConfigError if there is none, or if
    `state_dir` is not ours alone."""
    _check_directory(state_dir)
    if name is not None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                "the instance name is not valid", hint="use a-z, 0-9, - and _, at most 41 characters"
            )
        lease = _lock(state_dir / f"instance-{name}")
        if lease is None:
            raise ConfigError(
                f"a server with the instance name {name} is running", hint="stop it, or give another name"
            )
        return lease
    for number in range(1, _SLOTS + 1):
        lease = _lock(state_dir / f"instance-{number}")
        if lease is not None:
            return lease
    raise ConfigError(
        f"{_SLOTS} servers of this user are running", hint="stop some, or give another --state-dir"
    )


def ownerless(state_dir: Path) -> Iterator[Lease]:
    """Every slot whose owner is gone, held while the caller looks at it."""
    for path in sorted(state_dir.glob("instance-*")):
        with contextlib.suppress(ConfigError):
            lease = _lock(path, create=False)
            if lease is not None:
                with lease:
                    yield lease


def _check_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"state directory {path}: {error.strerror or error}",
            hint="give a directory of yours with --state-dir",
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"state directory {path} is not a directory", hint="give another with --state-dir")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"state directory {path} can be written by others, who could take over this server's containers",
            hint=f"chown it to the server's user and chmod 700 {path}",
        )


def _lock(path: Path, *, create: bool = True) -> Lease | None:
    """None if somebody holds it, or if it is absent and not to be created."""
    while True:
        try:
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"instance file {path}: {error.strerror}", hint="remove it, no server holds it"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _still_there(path, fd):
                return Lease(path.name, _read_id(fd), fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # removed between open and lock: a lock on it would exclude nobody


def _still_there(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _read_id(fd: int) -> str:
    """The id in a file that we have locked, made up now if it holds none.

    Written in place: a crash half-way leaves a text that is no id, and no container yet carries one.
    """
    content = os.pread(fd, 64, 0)
    if not _ID.fullmatch(content):
        content = uuid.uuid4().hex.encode() + b"\n"
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)
        os.fsync(fd)
    return content.decode().strip()
