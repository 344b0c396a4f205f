"""How often and how much: token buckets, one for each key, in integer nanoseconds.

The algorithm is GCRA (ITU-T I.371, leaky bucket as a meter): a bucket is one number, the time at which
it will be full again. What is taken moves that time on; taking is refused while it would lie more than
the bucket's depth ahead of now. So in any window of t seconds no key gets more than
`burst + t * count / per`, however calls are spread, cancelled or interleaved.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox_server.errors import Busy

NANO: Final = 1_000_000_000
MAX_KEYS: Final = 100_000
"""Buckets at once. One that is full again is the same as none, and is dropped first."""

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` per `per` seconds in the long run, `burst` at once. All are whole and at least 1, but for a
    `count` of 0, which allows nothing."""

    count: int
    per: int
    burst: int

    @property
    def step(self) -> int:
        """Nanoseconds that one unit takes to come back, rounded up: never more than the rate."""
        return -(-self.per * NANO // self.count)


class Buckets:
    """Not for threads: each method is one step on the event loop."""

    def __init__(self, *, clock: Callable[[], int] = time.monotonic_ns, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._full_at: OrderedDict[Key, int] = OrderedDict()
        self._max_keys = max_keys
        self.changes = 0
        """Grows with whatever changes a bucket."""

    def __len__(self) -> int:
        return len(self._full_at)

    def left(self) -> dict[Key, int]:
        """Of each bucket that is not full, the nanoseconds until it is."""
        now = self._clock()
        return {key: full_at - now for key, full_at in self._full_at.items() if full_at > now}

    def restore(self, left: Mapping[Key, int]) -> None:
        """As `left` has told; those with nothing left are full."""
        now = self._clock()
        for key, nanos in left.items():
            if nanos > 0:
                self._remember(key, now + nanos, now)

    def take(self, key: Key, rate: Rate, amount: int = 1) -> float:
        """0.0 if `amount` was taken; else nothing was, and these seconds are the least to wait.

        An amount that is more than the burst never fits: the answer is infinity. Raises Busy when
        more keys than can be remembered are in use, because forgetting one would fill its bucket.
        """
        if rate.count <= 0 or amount > rate.burst:
            return float("inf")
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + amount * rate.step
        late = full_at - now - rate.burst * rate.step
        if late > 0:
            return late / NANO
        self._remember(key, full_at, now)
        return 0.0

    def charge(self, key: Key, rate: Rate, amount: int) -> None:
        """Take what was used already, whether it is there or not: the next `take` waits for it.
        A negative amount gives back what was reserved and not used."""
        if rate.count <= 0 or amount == 0:
            return
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + amount * rate.step
        if full_at <= now:
            self.changes += 1
            self._full_at.pop(key, None)
            return
        self._remember(key, full_at, now)

    def wait(self, key: Key, rate: Rate, amount: int = 1) -> float:
        """As `take`, without taking."""
        if rate.count <= 0 or amount > rate.burst:
            return float("inf")
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + amount * rate.step
        return max(0, full_at - now - rate.burst * rate.step) / NANO

    def _remember(self, key: Key, full_at: int, now: int) -> None:
        if key not in self._full_at and len(self._full_at) >= self._max_keys:
            self._drop_full(now)
            if len(self._full_at) >= self._max_keys:
                raise Busy("too many callers are being counted", retry_after=1.0)
        self._full_at[key] = full_at
        self.changes += 1

    def _drop_full(self, now: int) -> None:
        for key in [key for key, full_at in self._full_at.items() if full_at <= now]:
            del self._full_at[key]
