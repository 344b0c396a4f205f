"""How much a principal may have under way, in calls and in bytes, so that none can take everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_server.errors import Busy

RETRY_SECONDS = 2.0
SMALL = 64 * 1024
"""What a call may bring without its bytes being counted: the number of calls bounds that."""


class Underway:
    """Counts the calls of each principal, those that wait included, and the bytes that they brought.

    At most `runs` and as many `others` of each principal, and `held` bytes of all together, a quarter of that
    of one. But who has brought nothing yet may bring any number, if only there is room or nobody has."""

    def __init__(self, runs: int, *, others: int = 64, held: int = 1 << 60) -> None:
        self._runs = runs
        self._others = others
        self._held = held
        self._counts: Counter[str] = Counter()
        self._other_counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def __len__(self) -> int:
        """Principals that have any."""
        return len(self._counts | self._other_counts | self._bytes)

    @contextmanager
    def one(self, principal: str, most: int | None = None, size: int = 0) -> Iterator[None]:
        """One more run of `principal` that brings `size` bytes. Raises Busy if it has as many as it may have:
        `most`, if that is less than what anybody may have."""
        most = self._runs if most is None else min(self._runs, most)
        with _counted(self._counts, principal, most, "runs"), self._holding(principal, size):
            yield

    @contextmanager
    def other(self, principal: str, size: int = 0) -> Iterator[None]:
        """One more call of `principal` that is no run. Raises Busy."""
        with _counted(self._other_counts, principal, self._others, "calls"), self._holding(principal, size):
            yield

    @contextmanager
    def _holding(self, principal: str, size: int) -> Iterator[None]:
        if size <= SMALL:
            yield
            return
        own, all_together = self._bytes[principal], self._bytes.total()
        if (own and own + size > self._held // 4) or (all_together and all_together + size > self._held):
            raise Busy(
                f"calls that are under way hold {own} bytes of yours and {all_together} of all callers; "
                f"{size} more are too many",
                retry_after=RETRY_SECONDS,
                hint="nothing was run; try again when one of them has ended, or send less at once",
            )
        with _added(self._bytes, principal, size):
            yield


@contextmanager
def _counted(counts: Counter[str], principal: str, most: int, what: str) -> Iterator[None]:
    if counts[principal] >= most:
        raise Busy(
            f"{most} {what} of yours are under way, as many as one caller may have",
            retry_after=RETRY_SECONDS,
            hint="nothing was run; try again when one of them has ended",
        )
    with _added(counts, principal, 1):
        yield


@contextmanager
def _added(counts: Counter[str], principal: str, number: int) -> Iterator[None]:
    counts[principal] += number
    try:
        yield
    finally:
        counts[principal] -= number
        if not counts[principal]:
            del counts[principal]
