"""How often a principal may use a rule."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from sandbox_server.errors import Busy

_REMEMBERED = 10_000


class Rates:
    """A bucket for each principal and rule that holds as many requests as the rule grants in its seconds,
    and refills evenly. Those not used longest are forgotten beyond 10,000.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, principal: str, rule: str, rate: tuple[int, float]) -> None:
        """Raises Busy with the time after which one more is granted."""
        requests, seconds = rate
        now = self._clock()
        left, at = self._buckets.pop((principal, rule), (float(requests), now))
        left = min(float(requests), left + (now - at) * requests / seconds)
        allowed = left >= 1
        self._buckets[(principal, rule)] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Busy(
                f"The rule {rule} grants {requests:,} requests in {seconds:g} s.",
                retry_after=round((1 - left) * seconds / requests, 3),
            )
