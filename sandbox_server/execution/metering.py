"""CPU time of background processes, which no run accounts for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sandbox_server.execution.process_models import ProcessView


class Meter:
    """Of one sandbox. It reads what the sandbox has used beside its runs, as its runner says, who alone knows
    how much of it a run has used that is still under way; from the start of the first process on that is
    theirs. If the sandbox is lost under processes, what nobody has read is taken to be all that they can have
    used.
    """

    def __init__(self, cpus: float) -> None:
        self._cpus = cpus
        self._total: int | None = None
        self._read = 0.0
        self._running: set[str] = set()
        self.charge: Callable[[float], None] | None = None
        """Gets seconds; never fewer than none, whatever a runner says."""

    @property
    def active(self) -> bool:
        """Whether there is something that uses time unseen."""
        return bool(self._running)

    @property
    def running(self) -> frozenset[str]:
        """Processes that were running when they were last seen."""
        return frozenset(self._running)

    def read(
        self, microseconds: int, views: Iterable[ProcessView], listed: frozenset[str] = frozenset()
    ) -> None:
        """What the sandbox has used so far beside its runs, and processes as they are: if they are all that
        there are, `listed` are those that were `running` when they were asked for. A runner forgets who has
        ended."""
        self._running -= listed
        for view in views:
            (self._running.add if view.running else self._running.discard)(view.id)
        before = self._total
        self._total, self._read = max(microseconds, before or 0), time.monotonic()
        if before is not None and self.charge is not None:
            self.charge((self._total - before) / 1e6)

    def end(self) -> None:
        """No process is left, nor anybody to read what they have used. Idempotent."""
        if self.active and self.charge is not None:
            self.charge((time.monotonic() - self._read) * self._cpus)
        self._running.clear()
        self._total = None
