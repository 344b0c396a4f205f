"""How many operations beside a run one sandbox has at once, by what they cost it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import anyio

from sandbox_server.errors import Busy

FILES = 4
QUICK = 16
WAITING = 16

Kind = Literal["file", "quick", "wait"]
"""A `file` operation takes a process of the sandbox's few; a `quick` one is answered at once; a `wait` is
answered when something happens there, so nobody stands in line behind it."""


class Slots:
    """Those of one sandbox."""

    def __init__(self) -> None:
        self._lines = {"file": anyio.Semaphore(FILES), "quick": anyio.Semaphore(QUICK)}
        self._waiting = anyio.Semaphore(WAITING)

    @property
    def may_wait(self) -> bool:
        """Whether one more can wait."""
        return self._waiting.value > 0

    @asynccontextmanager
    async def taken(self, kind: Kind) -> AsyncIterator[None]:
        """Have one, after those that came before. Raises Busy for one `wait` too many."""
        if kind != "wait":
            async with self._lines[kind]:
                yield
            return
        try:
            self._waiting.acquire_nowait()
        except anyio.WouldBlock:
            raise Busy(
                f"{WAITING} calls wait for processes of this session, as many as may at once",
                retry_after=1.0,
                hint="nothing was done; poll without `wait` answers at once",
            ) from None
        try:
            yield
        finally:
            self._waiting.release()
