"""CPU time of background processes, which no run accounts for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sandbox_server.execution.process_models import ProcessView


class Meter:
    """Of one sandbox. It reads what the sandbox's cgroup has used in all, as its runner says; what runs were
    told is theirs, the rest is its background processes' from the start of the first one on. While a run is
    under way its time is counted here, and given back once it has ended. If the sandbox ends under processes,
    what nobody has read is taken to be all that they can have used.
    """

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._total: int | None = None
        self._runs = 0
        self._read = 0.0
        self._charged = 0.0
        self._running: set[str] = set()
        self.charge: Callable[[float], None] | None = None
        """Gets seconds; fewer than none where too many were counted."""

    @property
    def active(self) -> bool:
        """Whether somebody should read: something uses time unseen, or the time of a run is to be given
        back."""
        return bool(self._running) or (self._total is not None and self._runs > 0)

    @property
    def running(self) -> frozenset[str]:
        """Processes that were running when they were last seen."""
        return frozenset(self._running)

    def ran(self, microseconds: int) -> None:
        """A run has been told that it has used so much."""
        self._runs += microseconds

    def read(
        self, microseconds: int, views: Iterable[ProcessView], listed: frozenset[str] = frozenset()
    ) -> None:
        """All that the sandbox has used so far, and processes as they are: if they are all that there are,
        `listed` are those that were `running` when they were asked for. A runner forgets who has ended."""
        self._running -= listed
        for view in views:
            (self._running.add if view.running else self._running.discard)(view.id)
        before, runs = self._total, self._runs
        self._total, self._runs, self._read = microseconds, 0, time.monotonic()
        if before is not None:
            self._charge((microseconds - before - runs) / 1e6)

    def end(self) -> None:
        """No process is left, nor anybody to read what they have used. Idempotent."""
        if self._running:
            self._charge((time.monotonic() - self._read) * self._cpus)
        self._running.clear()
        self._total = None

    def _charge(self, seconds: float) -> None:
        # A runner that lies gives its caller nothing that was not this sandbox's.
        seconds = max(seconds, -self._charged)
        self._charged += seconds
        if self.charge is not None:
            self.charge(seconds)
