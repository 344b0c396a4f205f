"""How many runs a principal may have under way, so that none can take everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_server.errors import Busy

RETRY_SECONDS = 2.0


class Underway:
    """Counts the runs of each principal, those that wait included."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Principals that have any."""
        return len(self._counts)

    @contextmanager
    def one(self, principal: str, most: int | None = None) -> Iterator[None]:
        """One more of `principal`. Raises Busy if it has as many as it may have: `most`, if that is less than
        what anybody may have."""
        most = self._most if most is None else min(self._most, most)
        if self._counts[principal] >= most:
            raise Busy(
                f"{most} runs of yours are under way, as many as one caller may have",
                retry_after=RETRY_SECONDS,
                hint="nothing was run; try again when one of them has ended",
            )
        self._counts[principal] += 1
        try:
            yield
        finally:
            self._counts[principal] -= 1
            if not self._counts[principal]:
                del self._counts[principal]
