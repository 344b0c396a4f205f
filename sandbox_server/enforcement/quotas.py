"""How much a caller may do: rates, CPU time and bytes, each counted for each principal.

Calls that are denied count like those that are allowed. What a run will use is not known before, so all that
it may use is reserved, and what it did not use is given back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox_server.errors import PolicyDenied, QuotaExceeded
from sandbox_server.policy.decision import Json, Limit, Request
from sandbox_server.security.limits import Buckets, Rate

MILLI: Final = 1000
LONGEST_WAIT: Final = 24 * 3600.0
Quota = Mapping[str, Limit]

_COUNTED: Final[Mapping[tuple[str, Json], str]] = {
    ("code_execution", None): "runs",
    ("process", "start"): "runs",
    ("sandbox", "create"): "runs",
    ("sandbox", "reset"): "runs",
}
_NAMES: Final = {
    "runs": "runs",
    "web": "web requests",
    "sql": "statements",
    "cpu_seconds": "CPU seconds",
    "egress_bytes": "bytes out of sandboxes",
}


def kind_of(request: Request) -> str:
    """Which rate a call counts for, "" for none."""
    match request.tool:
        case "web_api":
            return "web"
        case "database":
            return "sql"
        case "resource":
            scheme = str(request.args.get("uri", "")).partition("://")[0]
            return {"api": "web", "db": "sql"}.get(scheme, "")
    return _COUNTED.get((request.tool, request.args.get("operation")), "")


@dataclass(frozen=True, slots=True)
class Reservation:
    """`amount` was taken and is given back but for what was used."""

    key: tuple[str, ...]
    rate: Rate
    amount: int


class Quotas:
    """Of all principals; `keeping` has them outlive the server. `refused` is told which quota has refused."""

    def __init__(
        self, buckets: Buckets | None = None, refused: Callable[[str], object] = lambda kind: None
    ) -> None:
        self._buckets = Buckets() if buckets is None else buckets  # an empty one is false
        self._refused = refused

    def take(self, principal: str, kind: str, quota: Quota) -> None:
        """Raises QuotaExceeded, or PolicyDenied where the quota is nothing at all."""
        limit = quota.get(kind)
        if limit is not None:
            burst = quota.get("burst")
            rate = _rate(limit, burst=None if burst is None else int(burst.value))
            self._settle(self._buckets.take((principal, kind), rate), kind, limit)

    def reserve_cpu(self, principal: str, quota: Quota, seconds: float) -> Reservation | None:
        """For a run that may use so much. Raises as `take`."""
        limit = quota.get("cpu_seconds")
        if limit is None:
            return None
        rate = _rate(limit, scale=MILLI)
        amount = max(1, min(math.ceil(seconds * MILLI), rate.burst))
        key = (principal, "cpu_seconds")
        self._settle(self._buckets.take(key, rate, amount), "cpu_seconds", limit)
        return Reservation(key, rate, amount)

    def settle_cpu(self, reserved: Reservation | None, seconds: float) -> None:
        if reserved is not None:
            used = math.ceil(seconds * MILLI)
            self._buckets.charge(reserved.key, reserved.rate, used - reserved.amount)

    def charge_cpu(self, principal: str, quota: Quota, seconds: float) -> None:
        """What was used without a reservation: background processes go on, and owe it."""
        limit = quota.get("cpu_seconds")
        if limit is not None and limit.value > 0:
            amount = math.ceil(seconds * MILLI)
            self._buckets.charge((principal, "cpu_seconds"), _rate(limit, scale=MILLI), amount)

    def check_bytes(self, principal: str, quota: Quota) -> None:
        """Whether any are left. Raises as `take`."""
        limit = quota.get("egress_bytes")
        if limit is not None:
            wait = self._buckets.wait((principal, "egress_bytes"), _rate(limit))
            self._settle(wait, "egress_bytes", limit)

    def spend_bytes(self, principal: str, quota: Quota, count: int) -> str:
        """Counts them, there or not. What limits them, if they are more than there were."""
        limit = quota.get("egress_bytes")
        if limit is None:
            return ""
        key, rate = (principal, "egress_bytes"), _rate(limit)
        self._buckets.charge(key, rate, count)
        return limit.source if self._buckets.wait(key, rate, 0) > 0 else ""

    def _settle(self, wait: float, kind: str, limit: Limit) -> None:
        if wait == 0.0:
            return
        self._refused(kind)
        what = f"{limit.value:g} {_NAMES[kind]} in {limit.per or 1:g} s"
        if math.isinf(wait):
            raise PolicyDenied(f"the policy grants {what}", rule=limit.source, hint="ask the operator")
        raise QuotaExceeded(
            f"your quota of {what} is used up",
            rule=limit.source,
            retry_after=min(math.ceil(wait * 10) / 10, LONGEST_WAIT),
            hint="nothing was run; wait, or ask the operator for more",
        )


def _rate(limit: Limit, *, burst: int | None = None, scale: int = 1) -> Rate:
    count = int(limit.value * scale)
    return Rate(count, max(1, int(limit.per or 1)), max(1, count if burst is None else min(burst, count)))
