"""Newline-framed bytes over two file descriptors, without threads.

The SDK reads stdin in a worker thread, which no cancellation reaches: a server told to
stop would wait for its client to say something. It also shares the default thread limiter
with everything else. Here the event loop waits for the descriptor instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator

import anyio

READ_SIZE = 64 * 1024
WRITE_SIZE = 4096
"""PIPE_BUF: a pipe that is reported writable takes this much without blocking, whoever
shares it. O_NONBLOCK would do too, but it would change the pipe for our parent as well."""


class LineTooLong(Exception):
    """A line was longer than the limit; it was skipped up to its end."""


async def read_lines(fd: int, *, limit: int) -> AsyncIterator[bytes | LineTooLong]:
    """Lines without their newline until end of file; empty lines are skipped.

    A line over `limit` bytes is yielded as one `LineTooLong` and never held in memory.
    """
    pending = bytearray()
    skipping = False
    while chunk := await _read(fd):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            pending += line
            if skipping or len(pending) > limit:
                yield LineTooLong()
            elif pending.strip():
                yield bytes(pending)
            pending.clear()
            skipping = False
        pending += rest
        if len(pending) > limit:
            pending.clear()
            skipping = True
    if pending.strip() and not skipping:
        yield bytes(pending)


async def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`. Raises BrokenResourceError if nobody reads any more."""
    view = memoryview(data)
    while view:
        if not _is_regular(fd):
            await anyio.wait_writable(fd)
        try:
            view = view[os.write(fd, view[:WRITE_SIZE]) :]
        except BlockingIOError:
            continue
        except (BrokenPipeError, ConnectionResetError) as error:
            raise anyio.BrokenResourceError from error


async def _read(fd: int) -> bytes:
    while True:
        if _is_regular(fd):
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.wait_readable(fd)
        try:
            return os.read(fd, READ_SIZE)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return b""


def _is_regular(fd: int) -> bool:
    # Regular files and /dev/null can't be polled, and reading or writing them doesn't block.
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))
