"""Sandboxes that were scrubbed after a run and wait for the next one of the same principal.

Each is one principal's and one profile's. They are few, and for a short time; they hold places like any
other sandbox, so they are what goes first when somebody else needs one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sandbox_server.engines.profile import Profile
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.places import Places
from sandbox_server.execution.queue import Rounds
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.shelf import Shelf


@dataclass(frozen=True, slots=True)
class _Spare:
    sandbox: Sandbox
    since: float


class Spares:
    """The last used is the next to be used, so that what is not needed grows old.

    `shelves`, `places` and `rounds` are those of the pools, which `discard` what is given up."""

    def __init__(
        self,
        sizing: Sizing,
        shelves: Mapping[Profile, Shelf],
        places: Places,
        rounds: Rounds,
        discard: Callable[[Sandbox], None],
    ) -> None:
        self._sizing = sizing
        self._shelves = shelves
        self._places = places
        self._rounds = rounds
        self._discard = discard
        self._kept: dict[tuple[str, Profile], deque[_Spare]] = {}

    async def keep(self, sandbox: Sandbox, principal: str) -> bool:
        """Scrub a sandbox after a run of `principal` and keep it, or hand it to the next call of theirs that
        waits. False: it must be destroyed, because it is not clean, was used often enough, or is in others'
        way."""
        if sandbox.principal not in (None, principal) or sandbox.uses + 1 >= self._sizing.reuse_uses:
            return False
        sandbox.principal = principal
        if not (sandbox.clean or await sandbox.scrub()) or self._is_in_the_way_of_others(principal):
            return False
        sandbox.uses += 1
        shelf = self._shelves.get(sandbox.profile)
        waiter = shelf.queue.next_reuser(principal) if shelf else None
        if shelf and waiter:
            shelf.queue.remove(waiter)
            self._rounds.served(principal)
            waiter.settle(sandbox)
            return True
        return self._put(sandbox, principal)

    def _is_in_the_way_of_others(self, principal: str) -> bool:
        """Whether somebody waits for a place who can't have this sandbox."""
        return any(
            shelf.wanted > 0
            and shelf.queue.has_others(principal)
            and not self._places.has_room(shelf.profile)
            for shelf in self._shelves.values()
        )

    def _put(self, sandbox: Sandbox, principal: str) -> bool:
        own = sum(len(spares) for (owner, _), spares in self._kept.items() if owner == principal)
        if own >= self._sizing.reuse_each or self._sizing.sandboxes < 2:
            return False
        if len(self) >= self._sizing.sandboxes // 2 and (oldest := self.give_up()):
            self._discard(oldest)
        key = principal, sandbox.profile
        self._kept.setdefault(key, deque()).append(_Spare(sandbox, time.monotonic()))
        return True

    def __len__(self) -> int:
        return sum(len(spares) for spares in self._kept.values())

    def __contains__(self, sandbox: Sandbox) -> bool:
        return any(spare.sandbox is sandbox for spares in self._kept.values() for spare in spares)

    def take(self, principal: str, profile: Profile) -> Sandbox | None:
        """One that `principal` has used before."""
        spares = self._kept.get((principal, profile))
        if not spares:
            return None
        sandbox = spares[-1].sandbox
        self.remove(sandbox)
        return sandbox

    def remove(self, sandbox: Sandbox) -> None:
        """Forget one, if it is here."""
        self._drop(lambda spare: spare.sandbox is sandbox)

    def give_up(self) -> Sandbox | None:
        """The one that has waited longest, taken out."""
        oldest = min((spares[0] for spares in self._kept.values()), key=lambda each: each.since, default=None)
        if oldest is not None:
            self.remove(oldest.sandbox)
        return oldest.sandbox if oldest else None

    def take_all(self) -> list[Sandbox]:
        return self._drop(lambda spare: True)

    def take_old(self) -> list[Sandbox]:
        """Those that have waited for too long, taken out."""
        until = time.monotonic() - self._sizing.reuse_idle
        return self._drop(lambda spare: spare.since <= until)

    def _drop(self, over: Callable[[_Spare], bool]) -> list[Sandbox]:
        dropped = []
        for key, spares in list(self._kept.items()):
            dropped += [spare.sandbox for spare in spares if over(spare)]
            self._kept[key] = deque(spare for spare in spares if not over(spare))
            if not self._kept[key]:
                del self._kept[key]
        return dropped
