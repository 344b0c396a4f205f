"""Turns: in order, told where they stand, and never lost with somebody who gives up."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.execution.api import Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Queued, RunEvent
from sandbox_server.execution.turns import Turns
from tests.execution.support import request


class Line:
    """Callers of one lock; each keeps its turn until it is let go."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.turns = Turns()
        self.had: list[str] = []
        self.positions: dict[str, list[int]] = {}
        self._tasks = tasks
        self._go: dict[str, anyio.Event] = {}

    async def come(self, name: str) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        self._go[name] = anyio.Event()
        self.positions[name] = []
        self._tasks.start_soon(self._have, name, scope)
        await anyio.wait_all_tasks_blocked()
        return scope

    async def _have(self, name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with self.turns.taken(self.positions[name].append):
                self.had.append(name)
                await self._go[name].wait()

    async def let_go(self, name: str) -> None:
        self._go[name].set()
        await anyio.wait_all_tasks_blocked()


async def test_who_waits_is_served_in_order_and_told_each_position() -> None:
    async with anyio.create_task_group() as tasks:
        line = Line(tasks)
        for name in "abc":
            await line.come(name)
        assert line.turns.locked()
        for name in "abc":
            await line.let_go(name)
    assert line.had == ["a", "b", "c"]
    assert line.positions == {"a": [], "b": [1], "c": [2, 1]}
    assert not line.turns.locked()


async def test_who_gives_up_makes_room_for_those_behind() -> None:
    async with anyio.create_task_group() as tasks:
        line = Line(tasks)
        await line.come("a")
        gives_up = await line.come("b")
        await line.come("c")
        gives_up.cancel()
        await anyio.wait_all_tasks_blocked()
        assert line.positions["c"] == [2, 1]
        await line.let_go("a")
        await line.let_go("c")
    assert line.had == ["a", "c"]
    assert not line.turns.locked()


async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on() -> None:
    async with anyio.create_task_group() as tasks:
        line = Line(tasks)
        await line.come("a")
        gives_up = await line.come("b")
        await line.come("c")
        line._go["a"].set()
        await anyio.lowlevel.checkpoint()
        gives_up.cancel()
        await anyio.wait_all_tasks_blocked()
        await line.let_go("b")
        await line.let_go("c")
    assert line.had[-1] == "c"
    assert not line.turns.locked()


async def test_who_fails_passes_its_turn_on() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="a failure"):
        async with turns.taken():
            raise ValueError("a failure")
    assert not turns.locked()


async def test_calls_into_one_session_are_told_how_many_are_before_them(
    manager: Manager, engine: FakeEngine
) -> None:
    told: dict[str, list[RunEvent]] = {name: [] for name in "abc"}

    async def call(name: str) -> None:
        await manager.run(
            request("sleep", wall=0.2), caller=Caller(connection="c"), on_event=told[name].append
        )

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(partial(call, name))
            await anyio.wait_all_tasks_blocked()
    turns = {
        name: [event for event in events if isinstance(event, Queued) and event.turn]
        for name, events in told.items()
    }
    assert turns == {
        "a": [],
        "b": [Queued(1, turn=True)],
        "c": [Queued(2, turn=True), Queued(1, turn=True)],
    }
