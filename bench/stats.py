"""Samples of one thing that was measured."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


def percentile(values: Iterable[float], share: float) -> float:
    """Linear between the two nearest ranks; `share` is from 0 to 1. Raises ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass
class Samples:
    """Seconds, unless who collects them says otherwise."""

    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def p50(self) -> float:
        return percentile(self.values, 0.50)

    @property
    def p95(self) -> float:
        return percentile(self.values, 0.95)

    @property
    def p99(self) -> float:
        return percentile(self.values, 0.99)

    @property
    def most(self) -> float:
        return max(self.values)

    async def time(self, work: Callable[[], Awaitable[T]]) -> T:
        begin = time.perf_counter()
        result = await work()
        self.add(time.perf_counter() - begin)
        return result
