"""One build at a time per cache directory, across processes."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

_POLL = 0.25


@asynccontextmanager
async def held(path: Path, *, waiting: Callable[[], None]) -> AsyncIterator[None]:
    """Hold an exclusive lock on `path`. `waiting` is called once if somebody else holds it.

    The kernel releases the lock when its holder dies, so none is ever stale.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        told = False
        while not _taken(file.fileno()):
            if not told:
                waiting()
                told = True
            await anyio.sleep(_POLL)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
