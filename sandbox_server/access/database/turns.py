"""One caller can't hold all connections of a database: the last one is for the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from sandbox_server.access.database.settings import DatabaseLimits
from sandbox_server.errors import Busy


@dataclass(slots=True)
class _Share:
    places: anyio.Semaphore
    users: int = 0


class Turns:
    """Who waits and works, by database and principal; nothing is kept of those who do neither."""

    def __init__(self) -> None:
        self._shares: dict[Hashable, _Share] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable, limits: DatabaseLimits) -> AsyncIterator[None]:
        """Raises Busy."""
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = _Share(anyio.Semaphore(max(1, limits.connections - 1)))
        share.users += 1
        try:
            with anyio.move_on_after(limits.wait) as waiting:
                await share.places.acquire()
            if waiting.cancelled_caught:
                raise Busy(
                    "Your other statements hold all connections to this database that one caller may have",
                    retry_after=limits.wait,
                )
            try:
                yield
            finally:
                share.places.release()
        finally:
            share.users -= 1
            if not share.users:
                del self._shares[key]
