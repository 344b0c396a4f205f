"""Whose turn it is: a lock whose waiters are served in order and told where they stand."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio


class Turns:
    """As a lock; not reentrant."""

    def __init__(self) -> None:
        self._taken = False
        self._line: deque[_Waiter] = deque()

    def locked(self) -> bool:
        return self._taken

    @asynccontextmanager
    async def taken(self, tell: Callable[[int], None] | None = None) -> AsyncIterator[None]:
        """Wait for the turn and have it. `tell` is called with the position (1 is next) whenever it changes;
        it must not block or raise."""
        await self._take(tell)
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self, tell: Callable[[int], None] | None) -> None:
        if not self._taken:
            self._taken = True
            return
        waiter = _Waiter(tell)
        self._line.append(waiter)
        waiter.stand_at(len(self._line))
        try:
            await waiter.called.wait()
        except BaseException:
            if waiter.called.is_set():
                self._pass_on()  # it had the turn already
            else:
                self._line.remove(waiter)
                self._announce()
            raise

    def _pass_on(self) -> None:
        """To the next in line, without a moment in which somebody else could take it."""
        if self._line:
            self._line.popleft().called.set()
            self._announce()
        else:
            self._taken = False

    def _announce(self) -> None:
        for position, waiter in enumerate(self._line, start=1):
            waiter.stand_at(position)


class _Waiter:
    def __init__(self, tell: Callable[[int], None] | None) -> None:
        self.called = anyio.Event()
        self._tell = tell
        self._told = 0

    def stand_at(self, position: int) -> None:
        if self._tell is not None and position != self._told:
            self._told = position
            self._tell(position)
