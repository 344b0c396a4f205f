"""What every dialect gives, and connections that are lent to one call at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sandbox_server.access.database import failures
from sandbox_server.access.database.answers import Rows, Statement
from sandbox_server.access.database.settings import DatabaseLimits, DatabaseSettings
from sandbox_server.errors import Busy

RECYCLE = 1800
"""Seconds after which a connection is replaced: passwords change, proxies drop what is old."""
CLEANUP = 5.0
"""How long the end of a call may take that was cancelled, before its connection is simply dropped."""
GRACE = 1.0
"""What the server's own clock has before ours ends the call."""

log = structlog.get_logger(__name__)


class Backend(Protocol):
    """One database. `settings` of a call may differ from those it was made with in rules and limits."""

    @property
    def engine(self) -> AsyncEngine:
        """For looking at the schema; never for a caller's statement."""

    async def run(self, statement: Statement, settings: DatabaseSettings) -> Rows: ...

    async def aclose(self) -> None: ...


class Lease:
    """A connection of one call. One that is in doubt is not used again."""

    def __init__(self, connection: AsyncConnection, driver: Any, cut: Callable[[Any], None]) -> None:
        self._connection = connection
        self._cut = cut
        self.driver = driver
        self.in_doubt = True

    async def end(self) -> None:
        if self.in_doubt:
            # Without a word: SQLAlchemy would say goodbye first, to a server that may be silent.
            self._cut(self.driver)
            await self._connection.invalidate()
        await self._connection.close()


class Pool:
    """At most `limits.connections`, opened when they are needed. SQLAlchemy keeps the idle ones.

    Its own code runs shielded: a cancellation in the middle of its book-keeping would lose connections.
    `cut` ends a connection at once, without asking its server.
    """

    def __init__(
        self,
        url: str,
        opener: Callable[[], Awaitable[Any]],
        cut: Callable[[Any], None],
        limits: DatabaseLimits,
    ) -> None:
        self._limits = limits
        self._cut = cut
        self._idle: set[Any] = set()
        self._generation = 0
        self._closed = False
        self._places = anyio.Semaphore(limits.connections)
        self.engine = create_async_engine(
            url,
            async_creator=opener,
            pool_size=limits.connections + 1,  # one more for looking at the schema
            max_overflow=0,
            pool_timeout=limits.wait,
            pool_recycle=RECYCLE,
            pool_reset_on_return=None,
        )

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """Raises Busy, and whatever the opener raises."""
        with anyio.move_on_after(self._limits.wait) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise Busy("All connections to this database are in use", retry_after=self._limits.wait)
        try:
            # Twice: SQLAlchemy asks a few questions of its own on the first connection.
            with anyio.fail_after(2 * self._limits.connect, shield=True):
                connection = await self._connect()
                driver = (await connection.get_raw_connection()).driver_connection
                lease, generation = Lease(connection, driver, self._cut), self._generation
                self._idle.discard(driver)
            try:
                yield lease
            finally:
                lease.in_doubt = lease.in_doubt or self._closed or generation != self._generation
                if not lease.in_doubt:
                    self._idle.add(driver)
                with anyio.CancelScope(shield=True):
                    await lease.end()
        finally:
            self._places.release()

    async def _connect(self) -> AsyncConnection:
        """Raises what the driver raised: SQLAlchemy would hide it behind words of its own."""
        try:
            return await self.engine.connect()
        except SQLAlchemyError as error:
            cause: BaseException | None = error
            while cause is not None and type(cause).__module__.startswith("sqlalchemy."):
                cause = getattr(cause, "orig", None) or cause.__cause__
            raise (cause or OSError(str(error))) from None

    async def forget_idle(self) -> None:
        """After one turned out to be dead, the others may be."""
        self._generation += 1
        idle, self._idle = self._idle, set()
        for driver in idle:
            self._cut(driver)
        with anyio.CancelScope(shield=True):
            await self.engine.dispose(close=False)

    async def aclose(self) -> None:
        """Idle connections go now, those in use when their calls end."""
        self._closed = True
        with anyio.move_on_after(CLEANUP, shield=True):
            await self.engine.dispose()
        await self.forget_idle()


async def run_once_alive(
    pool: Pool,
    lease: Callable[[], AbstractAsyncContextManager[Lease]],
    begin: Callable[[Lease], Awaitable[bool]],
    work: Callable[[Lease], Awaitable[Rows]],
    name: str,
) -> Rows:
    """What `work` makes of a connection that `begin` found alive. A dead one is replaced once, and nothing
    was run on it. Raises DatabaseUnavailable if the other is dead, too."""
    async with lease() as leased:
        if await begin(leased):
            return await work(leased)
    await pool.forget_idle()
    async with lease() as leased:
        if await begin(leased):
            return await work(leased)
    raise failures.unavailable(name)
