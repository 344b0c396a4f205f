"""What callers have used up, kept in a file: a quota of a day is one also where the server restarts.

Written every few seconds where something has changed, and at the end; what a crash takes is what was used
since.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
import anyio.to_thread
import structlog
from pydantic import BaseModel, ConfigDict, Field

from sandbox_server.enforcement.quotas import Quotas
from sandbox_server.security.limits import MAX_KEYS, NANO, Buckets

EVERY: Final = 5.0
LEAST: Final = 10 * NANO
"""What is full again sooner is not worth a line."""
MOST_BYTES: Final = 64 * 1024**2
MOST_NANOS: Final = 2**63 - 1
"""Some 292 years."""

log = structlog.get_logger(__name__)

_Nanos = Annotated[int, Field(ge=0, le=MOST_NANOS)]
_Step = Annotated[int, Field(gt=0, le=MOST_NANOS)]


class _Kept(BaseModel):
    """`buckets`: each key, the time until it is full again, as of `saved_at` by the clock on the wall, and
    the step of its rate: see `Buckets`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    schema_: Annotated[Literal[1], Field(alias="schema")]
    saved_at: _Nanos
    buckets: Annotated[list[tuple[list[str], _Nanos, _Step]], Field(max_length=MAX_KEYS)]


@asynccontextmanager
async def open_quotas(
    path: Path,
    *,
    refused: Callable[[str], object] = lambda kind: None,
    every: float = EVERY,
    now: Callable[[], int] = time.time_ns,
) -> AsyncIterator[Quotas]:
    """With what the file holds. One that can't be read is told, and set aside. `refused`: see `Quotas`."""
    buckets = Buckets()
    limiter = anyio.CapacityLimiter(1)
    kept = await anyio.to_thread.run_sync(_read, path, limiter=limiter)
    if kept is not None:
        # A clock that was set back makes nobody wait longer than there was to wait.
        passed = max(0, now() - kept.saved_at)
        buckets.restore({tuple(key): (left - passed, step) for key, left, step in kept.buckets})
    saved, failing = buckets.changes, False

    async def save() -> None:
        nonlocal saved, failing
        if buckets.changes == saved:
            return
        changes, left = buckets.changes, buckets.left()
        try:
            await anyio.to_thread.run_sync(_write, path, now(), left, limiter=limiter)
        except OSError as error:
            if not failing:  # a disk that is full is so for longer than until the next look
                hint = "a restart would forget them"
                log.error("quotas_not_kept", file=str(path), reason=str(error), hint=hint)
            failing = True
        else:
            if failing:
                log.warning("quotas_kept_again", file=str(path))
            saved, failing = changes, False

    async def save_forever() -> None:
        while True:
            await anyio.sleep(every)
            await save()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(save_forever)
        try:
            yield Quotas(buckets, refused)
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await save()


def _read(path: Path) -> _Kept | None:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.error("quotas_forgotten", file=str(path), reason=str(error), hint="all callers begin anew")
        return None
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("the file is too large")
        return _Kept.model_validate_json(data)
    except ValueError:
        aside = path.with_suffix(".damaged")
        with suppress(OSError):
            path.replace(aside)
        log.error("quotas_forgotten", file=str(aside), reason="damaged", hint="all callers begin anew")
        return None


def _write(path: Path, now: int, left: dict[tuple[str, ...], tuple[int, int]]) -> None:
    """Whole or not at all."""
    buckets = [
        # Who owes more than can be read again owes as much as can be: it is one caller's, the file is all's.
        (key, min(nanos, MOST_NANOS), step)
        for key, (nanos, step) in left.items()
        if nanos >= LEAST and _is_text(key)
    ]
    data = json.dumps({"schema": 1, "saved_at": now, "buckets": buckets}, separators=(",", ":"))
    beside = path.with_suffix(".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _is_text(key: tuple[str, ...]) -> bool:
    """Half a surrogate pair could be written, and would make the file unreadable for all others."""
    try:
        "".join(key).encode()
    except UnicodeEncodeError:
        return False
    return True
