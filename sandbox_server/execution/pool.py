"""The warm pools: sandboxes that are started ahead, each used once, unless its user asked for it again.

Here callers take them and give them back. `parallel_starts` makers (`makers`) share all pools; what both
sides work on is the `stock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import anyio
from anyio.abc import TaskGroup

from sandbox_server.engines.base import Engine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import Busy, SandboxServerError
from sandbox_server.execution.census import Census
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.makers import Makers
from sandbox_server.execution.queue import Waiter, make_room
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.shelf import Shelf, Taken, changed, stopped
from sandbox_server.execution.stock import Stock

HEAD_START = 0.05
"""Seconds that the call which took a warm sandbox has the processors to itself: starting the next one
keeps them busy for longer than a short run takes. Nobody who waits for a sandbox waits for this."""
START_SECONDS = 60.0
"""After which an engine that is still starting a sandbox counts as one that does not answer."""
SHELF_LIFE = 3600.0
"""Seconds that a warm sandbox may wait: the rest of its lifetime must do for a whole session."""
LONGEST_RUN = 3600.0


class Pools:
    """All warm pools of a deployment. `start` runs them in a task group of the manager's.
    `longest_run` and `shelf_life` in seconds: a sandbox's deadline leaves room for both and
    a session between them.
    """

    def __init__(
        self,
        engine: Engine,
        profiles: Iterable[Profile],
        sizing: Sizing,
        *,
        longest_run: float = LONGEST_RUN,
        shelf_life: float = SHELF_LIFE,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._stock = Stock(profiles, sizing, shelf_life)
        self.census = Census(sizing, self._stock.shelves, self._stock.places, self._stock.spares)
        self._makers = Makers(engine, self._stock, lifetime=0.0, patience=start_seconds)
        self._set_lifetime(longest_run)

    def _set_lifetime(self, longest_run: float) -> None:
        self._makers.lifetime = self._stock.shelf_life + self._stock.sizing.session_ttl + longest_run + 60

    @property
    def profiles(self) -> int:
        """How many there is a pool for."""
        return len(self._stock.shelves)

    @property
    def last_error(self) -> SandboxServerError | None:
        return self._stock.last_error

    def start(self, tasks: TaskGroup) -> None:
        self._stock.tasks = tasks
        for _ in range(self._stock.sizing.parallel_starts):
            tasks.start_soon(self._makers.make_forever)

    def stop(self) -> None:
        """Nobody gets a sandbox any more, and who waits for one learns it now.

        What exists is the engine's to destroy: it does that for all of them at once.
        """
        self._stock.tasks = None
        for shelf in self._stock.shelves.values():
            shelf.turn_away(stopped)

    def keep(self, profiles: Iterable[Profile], revision: str, *, longest_run: float) -> None:
        """From now on `profiles` are kept warm, and no sandbox is handed out that was made under the limits
        of another revision of the policy: those that wait are destroyed, who waits for one is told."""
        wanted = set(profiles)
        self._stock.revision = revision
        self._set_lifetime(longest_run)
        for sandbox in self._stock.spares.take_all():
            self._stock.discard(sandbox)
        for shelf in list(self._stock.shelves.values()):
            shelf.kept = shelf.profile in wanted
            while shelf.idle and not shelf.kept:
                self._stock.discard(shelf.idle.popleft())
            if shelf.profile.revision != revision:
                shelf.turn_away(changed)
            self._stock.forget(shelf)
        for profile in wanted:
            self._stock.shelf(profile).kept = True
        self._stock.wake()

    # --- callers

    async def acquire(
        self, profile: Profile, principal: str, on_position: Callable[[int], None], *, reuse: bool = False
    ) -> Taken:
        """A sandbox that nobody has used or, with `reuse`, nobody but `principal`. The caller must `discard`
        it or `give_back` it.

        Raises Busy (queue full, or no place in time), LimitExceeded, EngineUnavailable, ConfigError.
        """
        if self._stock.tasks is None:
            raise stopped()
        self._check_revision(profile)
        self._stock.places.check(profile)
        while reuse and (spare := self._stock.spares.take(principal, profile)):
            if self._stock.is_good(spare) and spare.principal == principal:
                return Taken(spare, True, 0.0)
            self._stock.discard(spare)
        shelf = self._stock.shelf(profile)
        while shelf.idle:
            sandbox = shelf.idle.popleft()
            self._stock.tasks.start_soon(self._refill_soon)
            if self._stock.is_good(sandbox):
                return Taken(sandbox, True, 0.0)
            self._stock.discard(sandbox)
        begin = time.monotonic()
        while True:
            self._check_revision(profile)
            waiter = Waiter(principal, on_position, reuse=reuse)
            sandbox = await self._wait(self._stock.shelf(profile), waiter)
            if sandbox.alive and self._stock.is_current(profile):
                until = time.monotonic() if sandbox.uses else sandbox.begun
                return Taken(sandbox, False, max(0.0, until - begin))
            self._stock.discard(sandbox)  # it died on the way from its maker

    def _check_revision(self, profile: Profile) -> None:
        if not self._stock.is_current(profile):
            raise changed()

    def _admit(self, principal: str) -> int:
        """How many wait already. Raises Busy if no more may; but nobody fills the queue for others."""
        waiting = sum(len(each.queue) for each in self._stock.shelves.values())
        if waiting >= self._stock.sizing.queue:
            busy = self._busy(f"all sandboxes are taken and {waiting} calls wait already", waiting)
            make_room((each.queue for each in self._stock.shelves.values()), principal, busy)
        return waiting

    async def _wait(self, shelf: Shelf, waiter: Waiter) -> Sandbox:
        principal = waiter.principal
        try:
            waiting = self._admit(principal)
        except Busy:
            self._stock.forget(shelf)
            raise
        self._stock.rounds.join(principal)
        shelf.queue.push(waiter)
        self._stock.wake()
        try:
            with anyio.move_on_after(self._stock.sizing.queue_wait):
                await waiter.done.wait()
        except BaseException:
            if isinstance(waiter.outcome, Sandbox):
                self._stock.discard(waiter.outcome)
            raise
        finally:
            shelf.queue.remove(waiter)
            if not any(principal in each.queue for each in self._stock.shelves.values()):
                self._stock.rounds.leave(principal)
            self._stock.forget(shelf)
            self._stock.wake()  # with one want less there may be room for another
        if isinstance(waiter.outcome, Exception):
            raise waiter.outcome
        if waiter.outcome is None:
            raise self._busy(f"no sandbox became free in {self._stock.sizing.queue_wait:g} s", waiting)
        return waiter.outcome

    def _busy(self, message: str, waiting: int) -> Busy:
        wait = (1 + waiting // self._stock.sizing.parallel_starts) * self._stock.start_seconds
        wait = round(min(60.0, max(1.0, wait)), 1)
        return Busy(message, retry_after=wait, hint="nothing was run; try again later")

    def give_back(self, sandbox: Sandbox, principal: str, again: bool = True) -> None:
        """After a run of `principal`, to be used `again`: scrub the sandbox in the background and keep it for
        another of the same principal, or destroy it. See `Spares`."""
        if self._stock.tasks is None or not again or not self._stock.is_good(sandbox):
            self._stock.discard(sandbox)
        elif sandbox in self._stock.owned:
            self._stock.tasks.start_soon(self._give_back, sandbox, principal)

    async def _give_back(self, sandbox: Sandbox, principal: str) -> None:
        if not await self._stock.spares.keep(sandbox, principal):
            self._stock.discard(sandbox)
        self._stock.wake()

    def discard(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox in the background; its place is free once it is gone. Idempotent."""
        self._stock.discard(sandbox)

    async def _refill_soon(self) -> None:
        await anyio.sleep(HEAD_START)
        self._stock.wake()

    def retire(self) -> None:
        """Of those that wait, give up what has waited too long."""
        self._stock.retire()

    def counts(self) -> dict[str, int]:
        """For health."""
        return self.census.counts()
