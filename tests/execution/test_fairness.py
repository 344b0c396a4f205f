"""Many callers, few sandboxes: the queue is bounded, nobody starves, and everybody knows where it stands."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from functools import partial

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.engines.profile import MIB
from sandbox_server.errors import Busy
from sandbox_server.execution.api import Caller
from sandbox_server.execution.file_models import WriteFile, Written
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import InputFile, Queued, RunEvent
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.process_models import ListProcesses
from sandbox_server.execution.queue import FairQueue, Waiter, longest_line
from sandbox_server.execution.quota import Underway
from tests.execution.support import Callers, ignore, managed, nothing_left, pooled, request, run

pytestmark = pytest.mark.anyio

PRINCIPALS = ("ann", "bea", "cem", "dan", "eva")


class Crowd:
    """Calls side by side, by how they ended. `order` is who was served, in turn."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self.order: list[str] = []
        self.busy: list[tuple[str, Busy]] = []
        self.positions: dict[int, list[int]] = {}

    async def call(self, principal: str, number: int) -> None:
        told = self.positions.setdefault(number, [])

        def on_event(event: RunEvent) -> None:
            if isinstance(event, Queued):
                told.append(event.position)

        try:
            await self._manager.run(request("out hi"), caller=Caller(principal), on_event=on_event)
            self.order.append(principal)
        except Busy as busy:
            self.busy.append((principal, busy))


async def test_200_calls_of_5_principals_on_a_pool_of_4(engine: FakeEngine) -> None:
    bound = 100
    async with managed(engine, sandboxes=4, queue=bound, queue_wait=30, runs_per_principal=40) as manager:
        crowd = Crowd(manager)
        engine.gate = anyio.Event()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                # The worst order: each principal comes with all its calls before the next one.
                for number in range(200):
                    tasks.start_soon(crowd.call, PRINCIPALS[number // 40], number)
                    if number % 10 == 9:
                        await anyio.wait_all_tasks_blocked()
                        assert (await manager.health())["waiting"] <= bound
                assert (await manager.health())["waiting"] == bound
                engine.gate.set()
        served = Counter(crowd.order)
        assert len(crowd.order) == bound
        assert len(crowd.busy) == 200 - bound
        assert set(served.values()) == {bound // len(PRINCIPALS)}
        # In turn from the first to the last: never two rounds ahead of anybody.
        for index in range(1, len(crowd.order) + 1):
            so_far = Counter(crowd.order[:index])
            assert max(so_far.values()) - min(so_far[principal] for principal in PRINCIPALS) <= 2
        assert all(busy.retry_after > 0 for _, busy in crowd.busy)
        assert all("nothing was run" in busy.hint for _, busy in crowd.busy)
        assert (await manager.health())["waiting"] == 0


async def test_the_time_that_a_call_waits_for_a_place_is_told_as_such(engine: FakeEngine) -> None:
    async with managed(engine, sandboxes=1, parallel_starts=1, queue_wait=30) as manager:
        results = []

        async def call(code: str, wall: float) -> None:
            results.append(await run(manager, code, wall=wall))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, "wait", 0.2)
            tasks.start_soon(call, "out hi", 1)
        first, second = (result.timings for result in results)
        assert first.queue < 0.2 <= first.run
        assert 0.15 <= second.queue <= second.total
        assert second.queue + second.acquire + second.run <= second.total


async def test_everybody_who_waits_is_told_its_position_until_it_is_next(engine: FakeEngine) -> None:
    async with managed(engine, sandboxes=1, parallel_starts=1, queue=50, queue_wait=30) as manager:
        crowd = Crowd(manager)
        engine.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(crowd.call, PRINCIPALS[number % 5], number)
                await anyio.wait_all_tasks_blocked()
            engine.gate.set()
        assert len(crowd.order) == 20
        for told in crowd.positions.values():
            assert told[-1] == 1
            assert told == sorted(told, reverse=True)


async def test_memory_is_flat_however_often_the_crowd_comes(engine: FakeEngine) -> None:
    async with managed(engine, sandboxes=4, queue=100, queue_wait=30, runs_per_principal=40) as manager:

        async def come() -> None:
            crowd = Crowd(manager)
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(crowd.call, PRINCIPALS[number % 5], number)
            await anyio.wait_all_tasks_blocked()
            engine.started.clear()  # the fake's own books
            gc.collect()

        await come()
        tracemalloc.start()
        try:
            await come()
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(4):
                await come()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 200_000
        assert await nothing_left(manager, engine)


# --- the parts


async def test_a_full_queue_gives_a_newcomer_a_place_of_who_has_the_most(engine: FakeEngine) -> None:
    engine.gate = anyio.Event()
    async with pooled(engine, queue=3) as pools, anyio.create_task_group() as tasks:
        callers = Callers(pools, tasks)
        for _ in range(4):
            await callers.call("greedy")
        assert [type(error) for error in callers.errors] == [Busy]
        await callers.call("modest")
        assert len(callers.errors) == 2
        assert pools.counts()["waiting"] == 3
        await callers.call("modest")  # 2 and 1: one more would only turn it round
        assert len(callers.errors) == 3
        engine.gate.set()
        await anyio.wait_all_tasks_blocked()
        assert Counter(callers.served) == {"greedy": 2, "modest": 1}
        assert no_rounds(pools)


def no_rounds(pools: Pools) -> bool:
    return len(pools._stock.rounds) == 0


def test_whose_place_a_newcomer_gets() -> None:
    queues = [FairQueue(), FairQueue()]
    waiters = [Waiter(principal, lambda _: None) for principal in "aaab"]
    for index, waiter in enumerate(waiters):
        queues[index % 2].push(waiter)
    assert longest_line(queues, "c") == (queues[0], waiters[2])
    assert longest_line(queues, "b") == (queues[0], waiters[2])
    assert longest_line(queues, "a") is None
    assert longest_line([], "a") is None


async def test_a_principal_has_only_so_many_runs_under_way(engine: FakeEngine) -> None:
    async with managed(engine, runs_per_principal=2) as manager, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(_wait, manager)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Busy, match="2 runs of yours") as busy:
            await run(manager, "out hi", principal="ann")
        assert busy.value.retry_after > 0
        assert (await run(manager, "out hi", principal="bea")).outcome == "ok"
        tasks.cancel_scope.cancel()


async def _wait(manager: Manager) -> None:
    await manager.run(request("wait"), caller=Caller("ann"), on_event=ignore)


async def test_calls_that_wait_hold_only_so_many_bytes(engine: FakeEngine) -> None:
    """Of one session, which they wait for in line: 32 with 16 MiB each were half a gigabyte."""
    piece = (InputFile("a", bytes(MIB - 1024)),)
    async with managed(engine, held=8 * MIB) as manager, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(partial(run, manager, "wait", principal="ann", on="c", files=piece))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Busy, match="bytes") as busy:
            await run(manager, "out hi", principal="ann", on="d", files=piece)
        assert busy.value.retry_after > 0
        assert (await run(manager, "out hi", principal="ann", on="d")).outcome == "ok"  # hardly any
        assert (await run(manager, "out hi", principal="bea", files=piece)).outcome == "ok"
        with pytest.raises(Busy, match="bytes"):
            await manager.files(WriteFile("a", bytes(MIB)), caller=Caller("ann", "d"))
        tasks.cancel_scope.cancel()


async def test_one_call_alone_may_be_as_large_as_calls_can_be(engine: FakeEngine) -> None:
    large = (InputFile("a", bytes(9 * MIB)),)
    async with managed(engine, held=8 * MIB) as manager:
        for _ in range(2):
            assert (await run(manager, "out hi", files=large)).outcome == "ok"


async def test_a_principal_has_only_so_many_other_calls_under_way(engine: FakeEngine) -> None:
    """Those that are no runs: they don't wait for runs, but for a place on the wire."""
    engine.gate = anyio.Event()
    async with managed(engine, others_per_principal=2) as manager, anyio.create_task_group() as tasks:
        caller = Caller("ann", "c")
        for _ in range(2):
            tasks.start_soon(partial(manager.files, WriteFile("a", b"abc"), caller=caller))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Busy, match="2 calls of yours"):
            await manager.files(WriteFile("a", b"abc"), caller=caller)
        with pytest.raises(Busy, match="2 calls of yours"):
            await manager.processes.perform(ListProcesses(), caller=caller, on_event=ignore)
        engine.gate.set()
        assert (await run(manager, "out hi", principal="ann", on="c")).outcome == "ok"
        await anyio.wait_all_tasks_blocked()
        assert (await manager.files(WriteFile("a", b"abc"), caller=caller)).result == Written(3)


def test_the_count_of_runs_goes_down_however_they_end() -> None:
    underway = Underway(1)
    for _ in range(3):
        with pytest.raises(RuntimeError), underway.one("ann"):
            raise RuntimeError
    assert len(underway) == 0
