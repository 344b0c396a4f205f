"""How many sandboxes there are and what they do: for health and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.engines.profile import Profile
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.places import Places
from sandbox_server.execution.shelf import Shelf
from sandbox_server.execution.spares import Spares


@dataclass(frozen=True, slots=True)
class Census:
    """Looks at what the pools keep; counts anew each time."""

    sizing: Sizing
    shelves: Mapping[Profile, Shelf]
    places: Places
    spares: Spares

    @property
    def ready(self) -> int:
        return sum(len(shelf.idle) for shelf in self.shelves.values())

    @property
    def waiting(self) -> int:
        """Calls that wait for one."""
        return sum(len(shelf.queue) for shelf in self.shelves.values())

    @property
    def wanted(self) -> int:
        """How many are to be ready."""
        return self.sizing.warm * sum(shelf.kept for shelf in self.shelves.values())

    def states(self) -> dict[str, int]:
        """Those that are being removed count as `used`."""
        ready, spare = self.ready, len(self.spares)
        making = sum(shelf.making for shelf in self.shelves.values())
        used = max(0, self.places.taken - ready - spare - making)
        return {"ready": ready, "spare": spare, "making": making, "used": used}

    def counts(self) -> dict[str, int]:
        """For health."""
        return {
            "sandboxes": self.places.taken,
            "warm": self.ready,
            "spare": len(self.spares),
            "waiting": self.waiting,
        }
