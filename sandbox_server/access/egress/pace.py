"""How often programs may ask to get out: judging, recording and dialling cost the server more than them."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from sandbox_server.errors import Busy
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.web import EgressLimits
from sandbox_server.security.limits import Buckets, Rate


class Pace:
    """Of each principal and profile, whatever its sandboxes are. Who is too fast waits and is not refused,
    for installing packages is many requests; how many can wait is bounded by how many may be connected."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._buckets = Buckets(clock=clock)

    async def wait(self, access: EgressAccess, limits: EgressLimits) -> None:
        """For one more connection or request."""
        seconds = self.take(access, limits)
        if seconds > 0:
            await anyio.sleep(seconds)

    def take(self, access: EgressAccess, limits: EgressLimits) -> float:
        """Takes a place, and tells how many seconds it is away."""
        key, rate = (access.principal, access.profile), Rate(*limits.rate, limits.burst)
        try:
            self._buckets.charge(key, rate, 1)
        except Busy as error:
            return error.retry_after or 1.0
        return self._buckets.wait(key, rate, 0)
