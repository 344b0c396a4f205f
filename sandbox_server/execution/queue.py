"""A bounded queue that is fair between principals: they are served in turn, one call each."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count

import anyio

from sandbox_server.execution.sandbox import Sandbox


class Waiter:
    """A call that waits for a sandbox. `outcome` is set exactly once, then `done`.

    `reuse`: it takes one that was scrubbed after another run of `principal`, too."""

    def __init__(self, principal: str, on_position: Callable[[int], None], *, reuse: bool = False) -> None:
        self.principal = principal
        self.reuse = reuse
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

    def next_reuser(self, principal: str) -> Waiter | None:
        """The next call of `principal` that takes a scrubbed sandbox, still in its place."""
        return next((waiter for waiter in self._lines.get(principal, ()) if waiter.reuse), None)

    def has_others(self, principal: str) -> bool:
        """Whether anybody else waits."""
        return any(other != principal for other in self._lines)

    def remove(self, waiter: Waiter) -> None:
        """Forget a waiter that has given up; nothing happens if it isn't here any more."""
        line = self._lines.get(waiter.principal)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del self._lines[waiter.principal]
        self._announce()

    def __contains__(self, principal: str) -> bool:
        return principal in self._lines

    def counts(self) -> Counter[str]:
        """How many wait of each principal."""
        return Counter({principal: len(line) for principal, line in self._lines.items()})

    def last_of(self, principal: str) -> Waiter:
        """Who of `principal` has come last. Raises KeyError if none of them waits."""
        return self._lines[principal][-1]

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


class Rounds:
    """When each principal that waits was last served: over several queues the fair order needs that.

    Who begins to wait goes behind all others, as in one queue.
    """

    def __init__(self) -> None:
        self._turns = count(1)
        self._last: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._last)

    def join(self, principal: str) -> None:
        self._last.setdefault(principal, next(self._turns))

    def served(self, principal: str) -> None:
        self._last[principal] = next(self._turns)

    def leave(self, principal: str) -> None:
        self._last.pop(principal, None)

    def turn(self, queue: FairQueue) -> int:
        """Lower: somebody in this queue has waited for more rounds."""
        return min((self._last.get(principal, 0) for principal in queue.counts()), default=0)


def make_room(queues: Iterable[FairQueue], newcomer: str, busy: Exception) -> None:
    """One who waits is told `busy`, so that `newcomer` can wait; or it is raised."""
    found = longest_line(queues, newcomer)
    if found is None:
        raise busy
    queue, waiter = found
    queue.remove(waiter)
    waiter.settle(busy)


def longest_line(queues: Iterable[FairQueue], newcomer: str) -> tuple[FairQueue, Waiter] | None:
    """Whose place a newcomer gets when no more may wait: the last call of the principal that has the
    most, if that leaves it no fewer than the newcomer's has then. None: nobody's."""
    queues = list(queues)
    counts = sum((queue.counts() for queue in queues), Counter[str]())
    if not counts:
        return None
    principal, most = max(counts.items(), key=lambda item: item[1])
    if most - 1 < counts[newcomer] + 1:
        return None
    queue = max(queues, key=lambda each: each.counts()[principal])
    return queue, queue.last_of(principal)
