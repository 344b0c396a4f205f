"""All sandboxes that there are, whoever has them now, the places that they hold and who waits for one."""

from __future__ import annotations

import time
from collections.abc import Iterable

import anyio
from anyio.abc import TaskGroup

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import SandboxServerError
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.places import Places
from sandbox_server.execution.queue import Rounds
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.shelf import RETRY_FIRST, RETRY_MOST, Shelf
from sandbox_server.execution.spares import Spares

TYPICAL_START = 0.5
"""Seconds; only a first guess for `retry_after`."""


class Stock:
    """What callers and makers share. `tasks` is there while the pools run, `change` is set, and replaced,
    when there may be something to do. A sandbox is `owned` until it was given up, and its place taken until
    it is gone."""

    def __init__(self, profiles: Iterable[Profile], sizing: Sizing, shelf_life: float) -> None:
        self.sizing = sizing
        self.shelf_life = shelf_life
        self.shelves = {profile: Shelf(profile) for profile in profiles}
        self.places = Places(sizing)
        self.rounds = Rounds()
        self.spares = Spares(sizing, self.shelves, self.places, self.rounds, self.discard)
        self.owned: set[Sandbox] = set()
        self.tasks: TaskGroup | None = None
        self.change = anyio.Event()
        self.start_seconds = TYPICAL_START
        self.revision: str | None = None

    @property
    def last_error(self) -> SandboxServerError | None:
        return next((shelf.error for shelf in self.shelves.values() if shelf.error), None)

    def wake(self) -> None:
        self.change.set()
        self.change = anyio.Event()

    def shelf(self, profile: Profile) -> Shelf:
        shelf = self.shelves.get(profile)
        if shelf is None:
            shelf = self.shelves[profile] = Shelf(profile, kept=False)
        return shelf

    def forget(self, shelf: Shelf) -> None:
        """Unless it is kept or somebody still needs it."""
        if not (shelf.kept or shelf.making or shelf.queue):
            self.shelves.pop(shelf.profile, None)

    def is_current(self, profile: Profile) -> bool:
        return self.revision in (None, profile.revision)

    def is_good(self, sandbox: Sandbox) -> bool:
        young = time.monotonic() - sandbox.started < self.shelf_life
        return sandbox.alive and young and self.is_current(sandbox.profile)

    def discard(self, sandbox: Sandbox) -> None:
        """Destroy a sandbox in the background; its place is free once it is gone. Idempotent."""
        if sandbox in self.owned:
            self.owned.remove(sandbox)
            if self.tasks is not None:
                self.tasks.start_soon(self.destroy, sandbox)

    async def destroy(self, sandbox: Sandbox) -> None:
        await sandbox.settle()
        pause = RETRY_FIRST
        while not await sandbox.destroy():
            await anyio.sleep(pause)
            pause = min(RETRY_MOST, pause * 2)
        self.places.free(sandbox.profile)
        self.wake()

    def retire(self) -> None:
        """Of those that wait, give up what has waited too long."""
        for sandbox in self.spares.take_old():
            self.discard(sandbox)
        for shelf in self.shelves.values():
            for sandbox in [each for each in shelf.idle if not self.is_good(each)]:
                shelf.idle.remove(sandbox)
                self.discard(sandbox)
