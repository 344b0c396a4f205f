"""The warm pools: sandboxes that are started ahead, each used once, unless its user asked for it again.

`parallel_starts` identical makers share all pools. A maker takes the most urgent want (callers
that wait, pool by pool in turn; then a pool below its warm mark), starts a sandbox and hands it
over. What exists at once is capped before it is created, and counts until it is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from itertools import count

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from sandbox_server.engines.base import Container, Engine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import Busy, ConfigError, EngineUnavailable, SandboxServerError
from sandbox_server.execution.census import Census
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.places import Places
from sandbox_server.execution.queue import Rounds, Waiter, make_room
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.shelf import RETRY_FIRST, RETRY_MOST, Shelf, Taken, changed, stopped, too_slow
from sandbox_server.execution.spares import Spares

_log = logging.getLogger(__name__)

HEAD_START = 0.05
"""Seconds that the call which took a warm sandbox has the processors to itself: starting the next one
keeps them busy for longer than a short run takes. Nobody who waits for a sandbox waits for this."""
START_SECONDS = 60.0
"""After which an engine that is still starting a sandbox counts as one that does not answer."""
SHELF_LIFE = 3600.0
"""Seconds that a warm sandbox may wait: the rest of its lifetime must do for a whole session."""
LONGEST_RUN = 3600.0
TYPICAL_START = 0.5
"""Seconds; only a first guess for `retry_after`."""


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
        self._engine = engine
        self._sizing = sizing
        self._shelf_life = shelf_life
        self._lifetime = shelf_life + sizing.session_ttl + longest_run + 60
        self._patience = start_seconds
        self._shelves = {profile: Shelf(profile) for profile in profiles}
        self._places = Places(sizing)
        self._rounds = Rounds()
        self._spares = Spares(sizing, self._shelves, self._places, self._rounds, self.discard)
        self.census = Census(sizing, self._shelves, self._places, self._spares)
        self._owned: set[Sandbox] = set()
        self._turns = count(1)
        self._tasks: TaskGroup | None = None
        self._change = anyio.Event()
        self._evicting = False
        self._start_seconds = TYPICAL_START
        self._revision: str | None = None

    @property
    def profiles(self) -> int:
        """How many there is a pool for."""
        return len(self._shelves)

    @property
    def last_error(self) -> SandboxServerError | None:
        return next((shelf.error for shelf in self._shelves.values() if shelf.error), None)

    def start(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        for _ in range(self._sizing.parallel_starts):
            tasks.start_soon(self._make_forever)

    def stop(self) -> None:
        """Nobody gets a sandbox any more, and who waits for one learns it now.

        What exists is the engine's to destroy: it does that for all of them at once.
        """
        self._tasks = None
        for shelf in self._shelves.values():
            shelf.turn_away(stopped)

    def keep(self, profiles: Iterable[Profile], revision: str, *, longest_run: float) -> None:
        """From now on `profiles` are kept warm, and no sandbox is handed out that was made under the limits
        of another revision of the policy: those that wait are destroyed, who waits for one is told."""
        wanted = set(profiles)
        self._revision = revision
        self._lifetime = self._shelf_life + self._sizing.session_ttl + longest_run + 60
        for sandbox in self._spares.take_all():
            self.discard(sandbox)
        for shelf in list(self._shelves.values()):
            shelf.kept = shelf.profile in wanted
            while shelf.idle and not shelf.kept:
                self.discard(shelf.idle.popleft())
            if shelf.profile.revision != revision:
                shelf.turn_away(changed)
            self._forget(shelf)
        for profile in wanted:
            self._shelf(profile).kept = True
        self._wake()

    # --- callers

    async def acquire(
        self, profile: Profile, principal: str, on_position: Callable[[int], None], *, reuse: bool = False
    ) -> Taken:
        """A sandbox that nobody has used or, with `reuse`, nobody but `principal`. The caller must `discard`
        it or `give_back` it.

        Raises Busy (queue full, or no place in time), LimitExceeded, EngineUnavailable, ConfigError.
        """
        if self._tasks is None:
            raise stopped()
        self._check_revision(profile)
        self._places.check(profile)
        while reuse and (spare := self._spares.take(principal, profile)):
            if self._is_good(spare) and spare.principal == principal:
                return Taken(spare, True, 0.0)
            self.discard(spare)
        shelf = self._shelf(profile)
        while shelf.idle:
            sandbox = shelf.idle.popleft()
            self._tasks.start_soon(self._refill_soon)
            if self._is_good(sandbox):
                return Taken(sandbox, True, 0.0)
            self.discard(sandbox)
        begin = time.monotonic()
        while True:
            self._check_revision(profile)
            sandbox = await self._wait(self._shelf(profile), Waiter(principal, on_position, reuse=reuse))
            if sandbox.alive and self._is_current(profile):
                until = time.monotonic() if sandbox.uses else sandbox.begun
                return Taken(sandbox, False, max(0.0, until - begin))
            self.discard(sandbox)  # it died on the way from its maker

    def _is_current(self, profile: Profile) -> bool:
        return self._revision in (None, profile.revision)

    def _check_revision(self, profile: Profile) -> None:
        if not self._is_current(profile):
            raise changed()

    def _shelf(self, profile: Profile) -> Shelf:
        shelf = self._shelves.get(profile)
        if shelf is None:
            shelf = self._shelves[profile] = Shelf(profile, kept=False)
        return shelf

    def _forget(self, shelf: Shelf) -> None:
        """Unless it is kept or somebody still needs it."""
        if not (shelf.kept or shelf.making or shelf.queue):
            self._shelves.pop(shelf.profile, None)

    def _admit(self, principal: str) -> int:
        """How many wait already. Raises Busy if no more may; but nobody fills the queue for others."""
        waiting = sum(len(each.queue) for each in self._shelves.values())
        if waiting >= self._sizing.queue:
            busy = self._busy(f"all sandboxes are taken and {waiting} calls wait already", waiting)
            make_room((each.queue for each in self._shelves.values()), principal, busy)
        return waiting

    async def _wait(self, shelf: Shelf, waiter: Waiter) -> Sandbox:
        principal = waiter.principal
        try:
            waiting = self._admit(principal)
        except Busy:
            self._forget(shelf)
            raise
        self._rounds.join(principal)
        shelf.queue.push(waiter)
        self._wake()
        try:
            with anyio.move_on_after(self._sizing.queue_wait):
                await waiter.done.wait()
        except BaseException:
            if isinstance(waiter.outcome, Sandbox):
                self.discard(waiter.outcome)
            raise
        finally:
            shelf.queue.remove(waiter)
            if not any(principal in each.queue for each in self._shelves.values()):
                self._rounds.leave(principal)
            self._forget(shelf)
            self._wake()  # with one want less there may be room for another
        if isinstance(waiter.outcome, Exception):
            raise waiter.outcome
        if waiter.outcome is None:
            raise self._busy(f"no sandbox became free in {self._sizing.queue_wait:g} s", waiting)
        return waiter.outcome

    def _busy(self, message: str, waiting: int) -> Busy:
        wait = (1 + waiting // self._sizing.parallel_starts) * self._start_seconds
        wait = round(min(60.0, max(1.0, wait)), 1)
        return Busy(message, retry_after=wait, hint="nothing was run; try again later")

    def give_back(self, sandbox: Sandbox, principal: str, again: bool = True) -> None:
        """After a run of `principal`, to be used `again`: scrub the sandbox in the background and keep it for
        another of the same principal, or destroy it. See `Spares`."""
        if self._tasks is None or not again or not self._is_good(sandbox):
            self.discard(sandbox)
        elif sandbox in self._owned:
            self._tasks.start_soon(self._give_back, sandbox, principal)

    async def _give_back(self, sandbox: Sandbox, principal: str) -> None:
        if not await self._spares.keep(sandbox, principal):
            self.discard(sandbox)
        self._wake()

    def discard(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox in the background; its place is free once it is gone. Idempotent."""
        if sandbox in self._owned:
            self._owned.remove(sandbox)
            if self._tasks is not None:
                self._tasks.start_soon(self._destroy, sandbox)

    async def _destroy(self, sandbox: Sandbox) -> None:
        pause = RETRY_FIRST
        while not await sandbox.destroy():
            await anyio.sleep(pause)
            pause = min(RETRY_MOST, pause * 2)
        self._places.free(sandbox.profile)
        self._wake()

    def _is_good(self, sandbox: Sandbox) -> bool:
        young = time.monotonic() - sandbox.started < self._shelf_life
        return sandbox.alive and young and self._is_current(sandbox.profile)

    # --- makers

    async def _make_forever(self) -> None:
        while True:
            change, now = self._change, time.monotonic()
            shelf = self._most_urgent(now)
            if shelf is None:
                await self._wait_for_work(change, now)
                continue
            await self._make(shelf)
            # Callers that are ready to run go before the next start.
            await anyio.lowlevel.checkpoint()

    async def _wait_for_work(self, change: anyio.Event, now: float) -> None:
        pauses = [shelf.retry_at - now for shelf in self._shelves.values() if shelf.retry_at > now]
        with anyio.move_on_after(min(pauses, default=None)):
            await change.wait()

    async def _refill_soon(self) -> None:
        await anyio.sleep(HEAD_START)
        self._wake()

    def _wake(self) -> None:
        self._change.set()
        self._change = anyio.Event()

    def _most_urgent(self, now: float) -> Shelf | None:
        """A pool whose next start has a place reserved, or None if there is nothing to do now."""
        wanting = [shelf for shelf in self._shelves.values() if shelf.wanted > 0]
        # In turn, or a principal with calls in many pools, or a pool with a long queue, would leave
        # nothing to the others.
        for shelf in sorted(wanting, key=lambda each: (self._rounds.turn(each.queue), each.turn)):
            if self._places.take(shelf.profile):
                shelf.turn = next(self._turns)
                return shelf
            self._evict_for(shelf)
        if wanting:
            return None
        for shelf in sorted(self._shelves.values(), key=lambda each: len(each.idle) + each.making):
            missing = len(shelf.idle) + shelf.making < self._sizing.warm
            if shelf.kept and missing and shelf.retry_at <= now and self._places.take(shelf.profile):
                return shelf
        return None

    def _evict_for(self, wanting: Shelf) -> None:
        """Make room by dropping one that waits to be used again, or an idle one of another pool; one at a
        time."""
        if self._evicting or self._tasks is None:
            return
        others = (shelf for shelf in self._shelves.values() if shelf is not wanting and shelf.idle)
        sandbox = self._spares.give_up() or next((shelf.idle.pop() for shelf in others), None)
        if sandbox:
            self._owned.discard(sandbox)
            self._evicting = True
            self._tasks.start_soon(self._evict, sandbox)

    async def _evict(self, sandbox: Sandbox) -> None:
        try:
            await self._destroy(sandbox)
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
            self._start_seconds = 0.8 * self._start_seconds + 0.2 * (time.monotonic() - begin)
            shelf.succeeded()
            for other in self._shelves.values():
                # The engine answers again. An image that is missing is still missing.
                if isinstance(other.error, EngineUnavailable):
                    other.error = None
            self._deliver(shelf, sandbox)
        finally:
            shelf.making -= 1
            self._forget(shelf)
            self._wake()

    async def _open(self, shelf: Shelf) -> Sandbox:
        """Start a container and shake hands with its runner. Leaves nothing behind when it fails."""
        begin = time.monotonic()
        try:
            container = await self._start(shelf)
        except BaseException:
            self._places.free(shelf.profile)
            raise
        sandbox = Sandbox(container, shelf.profile)
        sandbox.begun = begin
        self._owned.add(sandbox)
        try:
            if self._tasks is not None:
                self._tasks.start_soon(self._pump, shelf, sandbox)
            await sandbox.greet()
        except BaseException:
            self.discard(sandbox)
            raise
        return sandbox

    async def _start(self, shelf: Shelf) -> Container:
        with anyio.move_on_after(self._patience):
            if not shelf.checked:
                await self._engine.check(shelf.profile)
                shelf.checked = True
            return await self._engine.start(shelf.profile, deadline=time.time() + self._lifetime)
        raise too_slow(self._patience)

    async def _pump(self, shelf: Shelf, sandbox: Sandbox) -> None:
        await sandbox.pump()
        if sandbox in self._spares:
            self._spares.remove(sandbox)
            self.discard(sandbox)
        if sandbox in shelf.idle:
            # It died while nobody used it: the next caller must not be the one who finds out.
            shelf.idle.remove(sandbox)
            shelf.back_off()
            self.discard(sandbox)

    def _deliver(self, shelf: Shelf, sandbox: Sandbox) -> None:
        if not sandbox.alive:
            self.discard(sandbox)
        elif waiter := shelf.queue.pop():
            self._rounds.served(waiter.principal)
            waiter.settle(sandbox)
        elif shelf.kept:
            shelf.idle.append(sandbox)
        else:
            self.discard(sandbox)  # nobody else could want it

    # --- looking after

    def retire(self) -> None:
        """Of those that wait, give up what has waited too long."""
        for sandbox in self._spares.take_old():
            self.discard(sandbox)
        for shelf in self._shelves.values():
            for sandbox in [each for each in shelf.idle if not self._is_good(each)]:
                shelf.idle.remove(sandbox)
                self.discard(sandbox)

    def counts(self) -> dict[str, int]:
        return self.census.counts()
