"""Whether a container that was killed from outside was killed for its memory.

The engine learns of an OOM kill on another way than of the exit. Under load the exit, and the removal of
the control group that follows it, often come first, and then `OOMKilled` stays false for ever. Two more
witnesses are asked; where neither knows, nobody does, and the sandbox counts as lost for no known reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from docker import APIClient

KERNEL_LOG = Path("/dev/kmsg")
RECENT = 300
"""Seconds of the engine's event log to look at."""
_RECORD = 8192


def was_out_of_memory(api: APIClient, container: str) -> bool:
    """`container` is the full id. Blocks for some milliseconds."""
    return _kernel_says_so(container) or _engine_logged_it(api, container)


def _engine_logged_it(api: APIClient, container: str) -> bool:
    now = int(time.time())
    log = api.events(since=now - RECENT, until=now + 1, filters={"container": container, "event": "oom"})
    try:
        return next(iter(log), None) is not None
    finally:
        log.close()


def _kernel_says_so(container: str) -> bool:
    """The kernel names the control group, which holds the id. Readable by root, on the engine's host."""
    wanted = container.encode()
    return any(b"oom_memcg=" in record and wanted in record for record in _kernel_log())


def _kernel_log() -> Iterator[bytes]:
    try:
        fd = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        while True:
            try:
                yield os.read(fd, _RECORD)
            except BrokenPipeError:
                continue  # a record was overwritten under us; the next read goes on behind it
            except OSError:
                return  # EAGAIN: that was all
    finally:
        os.close(fd)
