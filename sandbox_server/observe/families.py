"""Metrics whose number of series is bounded, whatever their labels are made of.

Labels are of two kinds. The values of most come from our own code (`tool`, `verdict`); those of the others,
which a metric calls open, from elsewhere: names in a policy, principals. The first `most` combinations of a
metric have a series each; from then on the open labels of new ones say `other`. Should a label that was not
meant to be open turn out to be, all of them do, so no metric ever has more than `2 * most + 1` series.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from sandbox_server.text import on_one_line

OTHER: Final = "other"
MOST_SERIES: Final = 500
LONGEST: Final = 160
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

M = TypeVar("M", Counter, Histogram)


class _Family(Generic[M]):
    def __init__(self, metric: M, labels: Sequence[str], opened: Collection[str], most: int) -> None:
        if unknown := set(opened) - set(labels):
            raise ValueError(f"there is no label {', '.join(sorted(unknown))}")
        # Else each series has a twin that says since when it is there. It is the library's own switch.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._metric: M = metric
        self._open = tuple(label in opened for label in labels)
        self._most = most
        self._series: dict[tuple[str, ...], M] = {}

    def at(self, values: tuple[str, ...]) -> M:
        found = self._series.get(values)
        if found is not None:
            return found
        return self._made(tuple(shown(value) for value in values))

    def _made(self, values: tuple[str, ...]) -> M:
        """Kept by what is shown, so that what looks the same is one series and long values are not kept."""
        if len(self._series) >= self._most and values not in self._series:
            values = tuple(
                OTHER if is_open else value for value, is_open in zip(values, self._open, strict=True)
            )
        if len(self._series) >= 2 * self._most and values not in self._series:
            values = (OTHER,) * len(values)
        found = self._series.get(values)
        if found is None:
            found = self._series[values] = self._metric.labels(*values) if values else self._metric
        return found


class Count:
    """A counter. `opened`: those of `labels` whose values are not our own."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        opened: Collection[str] = (),
        most: int = MOST_SERIES,
    ) -> None:
        self.metric = Counter(name, help, labels, registry=registry)
        self._family = _Family(self.metric, labels, opened, most)

    def add(self, *values: str, by: float = 1) -> None:
        if by > 0:
            self._family.at(values).inc(by)


class Spread:
    """A histogram of seconds. It takes labels of our own alone: each of its series is sixteen."""

    def __init__(
        self, registry: CollectorRegistry, name: str, help: str, labels: Sequence[str] = (), most: int = 60
    ) -> None:
        self.metric = Histogram(name, help, labels, registry=registry, buckets=SECONDS)
        self._family = _Family(self.metric, labels, (), most)

    def add(self, *values: str, seconds: float) -> None:
        self._family.at(values).observe(max(0.0, seconds))


class Names:
    """The first `most` of what would else be without end; `other` for those after them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        name = shown(name)
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name


def shown(value: str) -> str:
    """As it stands in a label: on one line, with control characters as escapes, of a length."""
    text = on_one_line(value[:LONGEST])
    return f"{text[: LONGEST - 3]}..." if len(value) > LONGEST or len(text) > LONGEST else text
