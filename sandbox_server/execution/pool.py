"""The warm pools: sandboxes that are started ahead, each used once.

`parallel_starts` identical makers share all pools. A maker takes the most urgent want (a caller
that waits, then a pool below its warm mark), starts a sandbox and hands it over. What exists at
once is capped before it is created: by number and by the sum of the memory limits.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from sandbox_server.engines.base import Engine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import Busy, ConfigError, EngineUnavailable, LimitExceeded, SandboxServerError
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.queue import FairQueue, Waiter
from sandbox_server.execution.sandbox import Sandbox, open_sandbox

_log = logging.getLogger(__name__)

RETRY_FIRST, RETRY_MOST = 0.5, 15.0
TYPICAL_START = 0.5
"""Seconds; only a first guess for `retry_after`."""


@dataclass
class Shelf:
    """The pool of one profile."""

    profile: Profile
    idle: deque[Sandbox] = field(default_factory=deque)
    queue: FairQueue = field(default_factory=FairQueue)
    making: int = 0
    checked: bool = False
    retry_at: float = 0.0
    retry_pause: float = RETRY_FIRST

    @property
    def wanted(self) -> int:
        """Callers that no start under way will serve."""
        return len(self.queue) - self.making


class Pools:
    """All warm pools of a deployment. `start` runs them in a task group of the manager's."""

    def __init__(self, engine: Engine, profiles: Iterable[Profile], sizing: Sizing) -> None:
        self._engine = engine
        self._sizing = sizing
        self._shelves = {profile: Shelf(profile) for profile in profiles}
        self._tasks: TaskGroup | None = None
        self._change = anyio.Event()
        self._count = 0
        self._memory = 0
        self._evicting = False
        self._start_seconds = TYPICAL_START
        self.last_error: SandboxServerError | None = None

    def start(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        for _ in range(self._sizing.parallel_starts):
            tasks.start_soon(self._make_forever)

    # --- callers

    async def acquire(
        self, profile: Profile, principal: str, on_position: Callable[[int], None]
    ) -> tuple[Sandbox, bool]:
        """A sandbox that nobody has used, and whether it was warm. The caller must `discard` it.

        Raises Busy (queue full, or no place in time), EngineUnavailable, ConfigError.
        """
        shelf = self._shelves[profile]
        while shelf.idle:
            sandbox = shelf.idle.popleft()
            self._wake()
            if sandbox.alive:
                return sandbox, True
            self.discard(sandbox)
        return await self._wait(shelf, principal, on_position), False

    async def _wait(self, shelf: Shelf, principal: str, on_position: Callable[[int], None]) -> Sandbox:
        waiting = sum(len(each.queue) for each in self._shelves.values())
        if waiting >= self._sizing.queue:
            raise self._busy(f"all sandboxes are taken and {waiting} calls wait already", waiting)
        waiter = Waiter(principal, on_position)
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
        if isinstance(waiter.outcome, Exception):
            raise waiter.outcome
        if waiter.outcome is None:
            raise self._busy(f"no sandbox became free in {self._sizing.queue_wait:g} s", waiting)
        return waiter.outcome

    def _busy(self, message: str, waiting: int) -> Busy:
        rounds = 1 + waiting // self._sizing.parallel_starts
        return Busy(
            message,
            retry_after=round(min(60.0, max(1.0, rounds * self._start_seconds)), 1),
            hint="nothing was run; try again later",
        )

    def discard(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox in the background; its place is free once it is gone."""
        assert self._tasks is not None
        self._tasks.start_soon(self._destroy, sandbox)

    async def _destroy(self, sandbox: Sandbox) -> None:
        with anyio.CancelScope(shield=True):
            await sandbox.destroy()
        self._release(sandbox.profile)

    # --- admission

    def _admit(self, profile: Profile) -> bool:
        """Reserve a place. Makes room by dropping an idle sandbox of a pool that nobody waits for."""
        if self._fits(profile):
            self._count += 1
            self._memory += profile.limits.memory
            return True
        if not self._evicting:
            self._evict_for(profile)
        return False

    def _evict_for(self, profile: Profile) -> None:
        assert self._tasks is not None
        for shelf in self._shelves.values():
            if shelf.profile != profile and shelf.idle and not len(shelf.queue):
                self._evicting = True
                self._tasks.start_soon(self._evict, shelf.idle.pop())
                return

    async def _evict(self, sandbox: Sandbox) -> None:
        try:
            await self._destroy(sandbox)
        finally:
            self._evicting = False

    def _fits(self, profile: Profile) -> bool:
        return (
            self._count < self._sizing.sandboxes
            and self._memory + profile.limits.memory <= self._sizing.memory
        )

    def _release(self, profile: Profile) -> None:
        self._count -= 1
        self._memory -= profile.limits.memory
        self._wake()

    def _wake(self) -> None:
        self._change.set()
        self._change = anyio.Event()

    # --- makers

    async def _make_forever(self) -> None:
        while True:
            change = self._change
            shelf = self._most_urgent()
            if shelf is None:
                await self._wait_for_work(change)
                continue
            await self._make(shelf)
            # Callers that are ready to run go before the next start.
            await anyio.sleep(0)

    async def _wait_for_work(self, change: anyio.Event) -> None:
        now = time.monotonic()
        pauses = [shelf.retry_at - now for shelf in self._shelves.values() if shelf.retry_at > now]
        with anyio.move_on_after(min(pauses, default=None)):
            await change.wait()

    def _most_urgent(self) -> Shelf | None:
        """A pool whose next start has a place reserved, or None if there is nothing to do now."""
        shelves = list(self._shelves.values())
        for shelf in sorted(shelves, key=lambda each: -each.wanted):
            if shelf.wanted > 0 and self._admit_or_fail(shelf):
                return shelf
        if any(shelf.wanted > 0 for shelf in shelves):
            return None
        now = time.monotonic()
        for shelf in sorted(shelves, key=lambda each: len(each.idle) + each.making):
            if shelf.retry_at <= now and len(shelf.idle) + shelf.making < self._sizing.warm and self._fits(shelf.profile):
                self._admit(shelf.profile)
                return shelf
        return None

    def _admit_or_fail(self, shelf: Shelf) -> bool:
        if self._admit(shelf.profile):
            return True
        if shelf.profile.limits.memory > self._sizing.memory:
            error = LimitExceeded(
                f"one sandbox of image '{shelf.profile.image}' is larger than the deployment's whole memory",
                hint="the operator must raise deployment.memory or lower the limit",
            )
            for waiter in shelf.queue.drain():
                waiter.settle(error)
        return False

    async def _make(self, shelf: Shelf) -> None:
        """Start one sandbox in the place that is reserved for it."""
        shelf.making += 1
        begin = time.monotonic()
        delivered = False
        try:
            sandbox = await self._open(shelf)
            self._start_seconds = 0.8 * self._start_seconds + 0.2 * (time.monotonic() - begin)
            shelf.retry_at, shelf.retry_pause = 0.0, RETRY_FIRST
            self.last_error = None
            delivered = True
        except (EngineUnavailable, ConfigError) as error:
            self._failed(shelf, error)
            return
        except Exception:
            # A bug of ours must not take every session down with it.
            _log.exception("a sandbox could not be made")
            self._failed(shelf, EngineUnavailable("a sandbox could not be made", hint="see the server's log"))
            return
        finally:
            shelf.making -= 1
            if not delivered:
                self._release(shelf.profile)
        self._deliver(shelf, sandbox)

    async def _open(self, shelf: Shelf) -> Sandbox:
        tasks = self._tasks
        assert tasks is not None
        if not shelf.checked:
            await self._engine.check(shelf.profile)
            shelf.checked = True
        deadline = time.time() + self._sizing.session_ttl + 60
        return await open_sandbox(
            self._engine,
            shelf.profile,
            deadline=deadline,
            run_pump=lambda sandbox: tasks.start_soon(self._pump, shelf, sandbox),
        )

    async def _pump(self, shelf: Shelf, sandbox: Sandbox) -> None:
        await sandbox.pump()
        if sandbox in shelf.idle:
            # It died while nobody used it: the next caller must not be the one who finds out.
            shelf.idle.remove(sandbox)
            self.discard(sandbox)

    def _failed(self, shelf: Shelf, error: SandboxServerError) -> None:
        """Everybody who waits for this pool learns why at once; warm starts back off."""
        self.last_error = error
        shelf.checked = False
        shelf.retry_at = time.monotonic() + shelf.retry_pause
        shelf.retry_pause = min(RETRY_MOST, shelf.retry_pause * 2)
        for waiter in shelf.queue.drain():
            waiter.settle(error)

    def _deliver(self, shelf: Shelf, sandbox: Sandbox) -> None:
        if not sandbox.alive:
            self.discard(sandbox)
        elif waiter := shelf.queue.pop():
            waiter.settle(sandbox)
        else:
            shelf.idle.append(sandbox)
            self._wake()

    # --- looking and leaving

    async def drain_idle(self) -> None:
        """Destroy everything that is warm."""
        for shelf in self._shelves.values():
            while shelf.idle:
                await self._destroy(shelf.idle.popleft())

    def counts(self) -> dict[str, int]:
        """For health: sandboxes that exist, that are warm, and calls that wait."""
        return {
            "sandboxes": self._count,
            "warm": sum(len(shelf.idle) for shelf in self._shelves.values()),
            "waiting": sum(len(shelf.queue) for shelf in self._shelves.values()),
        }
