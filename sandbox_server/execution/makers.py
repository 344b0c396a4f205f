"""The makers: identical tasks that start sandboxes, the most urgent first, and hand them over.

A maker takes the most urgent want (callers that wait, pool by pool in turn; then a pool below its warm
mark). What exists at once is capped before it is created, and counts until it is gone.
"""

from __future__ import annotations

import logging
import time
from itertools import count

import anyio
import anyio.lowlevel

from sandbox_server.engines.base import Container, Engine
from sandbox_server.errors import ConfigError, EngineUnavailable
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.shelf import Shelf, too_slow
from sandbox_server.execution.stock import Stock

_log = logging.getLogger(__name__)


class Makers:
    """`lifetime` in seconds is what a container's deadline leaves it, `patience` after how many an engine
    that is still starting one counts as one that does not answer."""

    def __init__(self, engine: Engine, stock: Stock, *, lifetime: float, patience: float) -> None:
        self._engine = engine
        self._stock = stock
        self.lifetime = lifetime
        self._patience = patience
        self._turns = count(1)
        self._evicting = False

    async def make_forever(self) -> None:
        while True:
            change, now = self._stock.change, time.monotonic()
            shelf = self._most_urgent(now)
            if shelf is None:
                await self._wait_for_work(change, now)
                continue
            await self._make(shelf)
            # Callers that are ready to run go before the next start.
            await anyio.lowlevel.checkpoint()

    async def _wait_for_work(self, change: anyio.Event, now: float) -> None:
        pauses = [shelf.retry_at - now for shelf in self._stock.shelves.values() if shelf.retry_at > now]
        with anyio.move_on_after(min(pauses, default=None)):
            await change.wait()

    def _most_urgent(self, now: float) -> Shelf | None:
        """A pool whose next start has a place reserved, or None if there is nothing to do now."""
        wanting = [shelf for shelf in self._stock.shelves.values() if shelf.wanted > 0]
        # In turn, or a principal with calls in many pools, or a pool with a long queue, would leave
        # nothing to the others.
        for shelf in sorted(wanting, key=lambda each: (self._stock.rounds.turn(each.queue), each.turn)):
            if self._stock.places.take(shelf.profile):
                shelf.turn = next(self._turns)
                return shelf
            self._evict_for(shelf)
        if wanting:
            return None
        for shelf in sorted(self._stock.shelves.values(), key=lambda each: len(each.idle) + each.making):
            missing = len(shelf.idle) + shelf.making < self._stock.sizing.warm
            if shelf.kept and missing and shelf.retry_at <= now and self._stock.places.take(shelf.profile):
                return shelf
        return None

    def _evict_for(self, wanting: Shelf) -> None:
        """Make room by dropping one that waits to be used again, or an idle one of another pool; one at a
        time."""
        if self._evicting or self._stock.tasks is None:
            return
        others = (shelf for shelf in self._stock.shelves.values() if shelf is not wanting and shelf.idle)
        sandbox = self._stock.spares.give_up() or next((shelf.idle.pop() for shelf in others), None)
        if sandbox:
            self._stock.owned.discard(sandbox)
            self._evicting = True
            self._stock.tasks.start_soon(self._evict, sandbox)

    async def _evict(self, sandbox: Sandbox) -> None:
        try:
            await self._stock.destroy(sandbox)
        finally:
            self._evicting = False

    async def _make(self, shelf: Shelf) -> None:
        """Start one sandbox in the place that is reserved for it."""
        shelf.making += 1
        begin = time.monotonic()
        try:
            sandbox = await self._open(shelf)
        except (EngineUnavailable, ConfigError) as error:
            shelf.failed(error)
        except Exception:
            # A bug of ours must not take every session down with it.
            _log.exception("a sandbox could not be made")
            shelf.failed(EngineUnavailable("a sandbox could not be made", hint="see the server's log"))
        else:
            self._stock.start_seconds = 0.8 * self._stock.start_seconds + 0.2 * (time.monotonic() - begin)
            shelf.succeeded()
            for other in self._stock.shelves.values():
                # The engine answers again. An image that is missing is still missing.
                if isinstance(other.error, EngineUnavailable):
                    other.error = None
            self._deliver(shelf, sandbox)
        finally:
            shelf.making -= 1
            self._stock.forget(shelf)
            self._stock.wake()

    async def _open(self, shelf: Shelf) -> Sandbox:
        """Start a container and shake hands with its runner. Leaves nothing behind when it fails."""
        begin = time.monotonic()
        try:
            container = await self._start(shelf)
        except BaseException:
            self._stock.places.free(shelf.profile)
            raise
        sandbox = Sandbox(container, shelf.profile)
        sandbox.begun = begin
        self._stock.owned.add(sandbox)
        try:
            if self._stock.tasks is not None:
                self._stock.tasks.start_soon(self._pump, shelf, sandbox)
            await sandbox.greet()
        except BaseException:
            self._stock.discard(sandbox)
            raise
        return sandbox

    async def _start(self, shelf: Shelf) -> Container:
        with anyio.move_on_after(self._patience):
            if not shelf.checked:
                await self._engine.check(shelf.profile)
                shelf.checked = True
            return await self._engine.start(shelf.profile, deadline=time.time() + self.lifetime)
        raise too_slow(self._patience)

    async def _pump(self, shelf: Shelf, sandbox: Sandbox) -> None:
        await sandbox.pump()
        if sandbox in self._stock.spares:
            self._stock.spares.remove(sandbox)
            self._stock.discard(sandbox)
        if sandbox in shelf.idle:
            # It died while nobody used it: the next caller must not be the one who finds out.
            shelf.idle.remove(sandbox)
            shelf.back_off()
            self._stock.discard(sandbox)

    def _deliver(self, shelf: Shelf, sandbox: Sandbox) -> None:
        if not sandbox.alive:
            self._stock.discard(sandbox)
        elif waiter := shelf.queue.pop():
            self._stock.rounds.served(waiter.principal)
            waiter.settle(sandbox)
        elif shelf.kept:
            shelf.idle.append(sandbox)
        else:
            self._stock.discard(sandbox)  # nobody else could want it
