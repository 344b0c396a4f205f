"""How often and how much: token buckets, one for each key, in integer nanoseconds.

The algorithm is GCRA (ITU-T I.371, leaky bucket as a meter): a bucket is one number, the time at which
it will be full again. What is taken moves that time on; taking is refused while it would lie more than
the bucket's depth ahead of now. So in any window of t seconds no key gets more than
`burst + t * count / per`, however calls are spread, cancelled or interleaved.

What was taken is so many units, also once they come back at another pace: where a key's rate is another
than it was, the time is that of these units by the new one.
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
        self._full_at: OrderedDict[Key, tuple[int, int]] = OrderedDict()
        """When it is full again, and the step of the rate by which that was reckoned."""
        self._max_keys = max_keys
        self.changes = 0
        """Grows with whatever changes a bucket."""

    def __len__(self) -> int:
        return len(self._full_at)

    def left(self) -> dict[Key, tuple[int, int]]:
        """Of each bucket that is not full, the nanoseconds until it is, and the step of its rate."""
        now = self._clock()
        return {key: (full_at - now, step) for key, (full_at, step) in self._full_at.items() if full_at > now}

    def restore(self, left: Mapping[Key, tuple[int, int]]) -> None:
        """As `left` has told; those with nothing left are full."""
        now = self._clock()
        for key, (nanos, step) in left.items():
            if nanos > 0:
                self._remember(key, now + nanos, step, now)

    def take(self, key: Key, rate: Rate, amount: int = 1) -> float:
        """0.0 if `amount` was taken; else nothing was, and these seconds are the least to wait.

        An amount that is more than the burst never fits: the answer is infinity. Raises Busy when
        more keys than can be remembered are in use, because forgetting one would fill its bucket.
        """
        if rate.count <= 0 or amount > rate.burst:
            return float("inf")
        now = self._clock()
        owed = self._owed(key, rate, now) + amount * rate.step
        late = owed - rate.burst * rate.step
        if late > 0:
            return late / NANO
        self._remember(key, now + owed, rate.step, now)
        return 0.0

    def charge(self, key: Key, rate: Rate, amount: int) -> None:
        """Take what was used already, whether it is there or not: the next `take` waits for it.
        A negative amount gives back what was reserved and not used."""
        if rate.count <= 0 or amount == 0:
            return
        now = self._clock()
        owed = self._owed(key, rate, now) + amount * rate.step
        if owed <= 0:
            self.changes += 1
            self._full_at.pop(key, None)
            return
        self._remember(key, now + owed, rate.step, now)

    def wait(self, key: Key, rate: Rate, amount: int = 1) -> float:
        """As `take`, without taking."""
        if rate.count <= 0 or amount > rate.burst:
            return float("inf")
        owed = self._owed(key, rate, self._clock()) + amount * rate.step
        return max(0, owed - rate.burst * rate.step) / NANO

    def _owed(self, key: Key, rate: Rate, now: int) -> int:
        """Nanoseconds until the bucket is full, by `rate`."""
        full_at, step = self._full_at.get(key, (now, rate.step))
        left = max(full_at - now, 0)
        return left if step == rate.step else -(-left * rate.step // step)

    def _remember(self, key: Key, full_at: int, step: int, now: int) -> None:
        if key not in self._full_at and len(self._full_at) >= self._max_keys:
            self._drop_full(now)
            if len(self._full_at) >= self._max_keys:
                raise Busy("too many callers are being counted", retry_after=1.0)
        self._full_at[key] = full_at, step
        self.changes += 1

    def _drop_full(self, now: int) -> None:
        for key in [key for key, (full_at, _) in self._full_at.items() if full_at <= now]:
            del self._full_at[key]
