"""A bounded queue that is fair between principals: they are served in turn, one call each."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import anyio

from sandbox_server.execution.sandbox import Sandbox


class Waiter:
    """A call that waits for a sandbox. `outcome` is set exactly once, then `done`."""

    def __init__(self, principal: str, on_position: Callable[[int], None]) -> None:
        self.principal = principal
        self.on_position = on_position
        self.outcome: Sandbox | Exception | None = None
        self.done = anyio.Event()
        self._told = 0

    def settle(self, outcome: Sandbox | Exception) -> None:
        self.outcome = outcome
        self.done.set()

    def tell(self, position: int) -> None:
        if position != self._told:
            self._told = position
            self.on_position(position)


class FairQueue:
    """Waiters, first in first out within a principal, round robin between principals."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Waiter]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def push(self, waiter: Waiter) -> None:
        self._lines.setdefault(waiter.principal, deque()).append(waiter)
        self._announce()

    def pop(self) -> Waiter | None:
        """The next waiter; its principal goes to the end of the round."""
        if not self._lines:
            return None
        principal, line = self._lines.popitem(last=False)
        waiter = line.popleft()
        if line:
            self._lines[principal] = line
        self._announce()
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter that has given up; nothing happens if it isn't here any more."""
        line = self._lines.get(waiter.principal)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del self._lines[waiter.principal]
        self._announce()

    def drain(self) -> Iterator[Waiter]:
        """Take out everybody."""
        while (waiter := self.pop()) is not None:
            yield waiter

    def _announce(self) -> None:
        for position, waiter in enumerate(self._order(), start=1):
            waiter.tell(position)

    def _order(self) -> Iterator[Waiter]:
        lines = [list(line) for line in self._lines.values()]
        for turn in range(max((len(line) for line in lines), default=0)):
            for line in lines:
                if turn < len(line):
                    yield line[turn]
