"""The warm pools: never too many, never twice, nobody forgotten, whatever the engine does."""

from __future__ import annotations

import time
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeContainer, FakeEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import Busy, ConfigError, EngineUnavailable, LimitExceeded
from sandbox_server.execution.shelf import RETRY_FIRST
from tests.execution.support import BIG, NODE, PYTHON, Callers, container_of, pooled, silent, take

pytestmark = pytest.mark.anyio
HUGE = Profile("base", SandboxLimits(memory=2000 * MIB))


# --- warm


async def test_warm_ones_are_made_ahead_and_replaced_when_taken() -> None:
    engine = FakeEngine()
    async with pooled(engine, (PYTHON, NODE), warm=2) as pools:
        assert pools.counts() == {"sandboxes": 4, "warm": 4, "spare": 0, "waiting": 0}
        sandbox, warm, _ = await pools.acquire(PYTHON, "p", silent)
        assert warm
        await anyio.wait_all_tasks_blocked()
        assert pools.counts()["warm"] == 3, "the next start competes with the call that took this one"
        with anyio.fail_after(3):
            while pools.counts()["warm"] < 4:  # noqa: ASYNC110 - a timer starts it, no event
                await anyio.sleep(0.01)
        assert pools.counts() == {"sandboxes": 5, "warm": 4, "spare": 0, "waiting": 0}
        pools.discard(sandbox)
        await anyio.wait_all_tasks_blocked()
        assert pools.counts() == {"sandboxes": 4, "warm": 4, "spare": 0, "waiting": 0}
        assert container_of(sandbox).destroyed


async def test_a_warm_one_that_dies_is_replaced_before_anybody_gets_it() -> None:
    engine = FakeEngine()
    async with pooled(engine, warm=1) as pools:
        first = engine.started[0]
        first.runner.death = Death(1, False, "died")
        first.stream.wake()
        await anyio.wait_all_tasks_blocked()
        assert first.destroyed
        with anyio.fail_after(3):
            sandbox = await take(pools)
        assert sandbox.alive
        assert container_of(sandbox) is not first


async def test_warm_ones_that_die_at_once_are_not_made_in_a_hot_loop() -> None:
    class Fragile(FakeEngine):
        async def start(self, profile: Profile, *, deadline: float) -> FakeContainer:
            container = await super().start(profile, deadline=deadline)
            tasks.start_soon(self._end, container)
            return container

        async def _end(self, container: FakeContainer) -> None:
            while not container.runner.sent:  # READY is on its way
                await anyio.lowlevel.checkpoint()
            while container.runner.sent:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            container.runner.death = Death(1, False, "fragile")
            container.stream.wake()

    engine = Fragile()
    async with anyio.create_task_group() as tasks, pooled(engine, warm=1):
        begun = anyio.current_time()
        with anyio.fail_after(10):
            await engine.until(lambda: len(engine.started) == 3)
        assert anyio.current_time() - begun >= RETRY_FIRST
        tasks.cancel_scope.cancel()


async def test_one_that_has_waited_too_long_is_not_handed_out() -> None:
    """Its deadline would end a session that is younger than it."""
    engine = FakeEngine()
    async with pooled(engine, warm=1, shelf_life=0.0) as pools:
        old = engine.started[0]
        sandbox, warm, _ = await pools.acquire(PYTHON, "p", silent)
        assert not warm
        assert container_of(sandbox) is not old
        await anyio.wait_all_tasks_blocked()
        assert old.destroyed


async def test_those_that_have_waited_too_long_are_replaced() -> None:
    engine = FakeEngine()
    async with pooled(engine, warm=2, shelf_life=0.0) as pools:
        old = list(engine.started)
        pools.retire()
        await anyio.wait_all_tasks_blocked()
        assert all(container.destroyed for container in old)
        assert pools.counts() == {"sandboxes": 2, "warm": 2, "spare": 0, "waiting": 0}


async def test_a_deadline_leaves_room_for_the_shelf_a_session_and_a_run() -> None:
    engine = FakeEngine()
    before = time.time()
    async with pooled(engine, warm=1, session_ttl=1000.0, longest_run=300.0, shelf_life=50.0):
        assert engine.started[0].deadline >= before + 1350


# --- waiting


async def test_principals_are_served_in_turn() -> None:
    engine = FakeEngine()
    async with anyio.create_task_group() as tasks, pooled(engine, sandboxes=1) as pools:
        held = await take(pools)
        callers = Callers(pools, tasks)
        for principal in ("greedy", "greedy", "greedy", "modest"):
            await callers.call(principal)
        for _ in range(4):
            pools.discard(held)
            await anyio.wait_all_tasks_blocked()
            held = callers.sandboxes[-1]
        assert callers.served == ["greedy", "modest", "greedy", "greedy"]
        assert callers.positions["modest"] == [2, 1]


async def test_pools_are_served_in_turn_so_that_a_long_queue_starves_nobody() -> None:
    engine = FakeEngine()
    async with anyio.create_task_group() as tasks, pooled(engine, (PYTHON, NODE), sandboxes=1) as pools:
        held = await take(pools)
        callers = Callers(pools, tasks)
        for _ in range(4):
            await callers.call("many")
        await callers.call("one", NODE)
        for served in range(5):
            pools.discard(held)
            await anyio.wait_all_tasks_blocked()
            assert len(callers.served) == served + 1
            held = callers.sandboxes[-1]
            await callers.call("many")
        assert "one" in callers.served[:2]


async def test_a_full_queue_is_busy_at_once() -> None:
    async with anyio.create_task_group() as tasks, pooled(FakeEngine(), sandboxes=1, queue=1) as pools:
        await take(pools)
        callers = Callers(pools, tasks)
        await callers.call("first")
        with anyio.fail_after(0.5), pytest.raises(Busy) as busy:
            await take(pools)
        assert busy.value.retry_after >= 1
        assert busy.value.retry_safe
        assert pools.counts()["waiting"] == 1
        tasks.cancel_scope.cancel()


async def test_who_has_waited_long_enough_is_told_so() -> None:
    async with pooled(FakeEngine(), sandboxes=1, queue_wait=0.05) as pools:
        held = await take(pools)
        with anyio.fail_after(2), pytest.raises(Busy):
            await take(pools)
        assert pools.counts()["waiting"] == 0
        pools.discard(held)
        await anyio.wait_all_tasks_blocked()
        assert pools.counts()["sandboxes"] == 0


async def test_a_caller_that_gives_up_loses_no_sandbox() -> None:
    engine = FakeEngine()
    engine.gate = anyio.Event()
    async with anyio.create_task_group() as tasks, pooled(engine) as pools:
        callers = Callers(pools, tasks)
        scope = await callers.call("fickle")
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        engine.gate.set()
        await anyio.wait_all_tasks_blocked()
        assert pools.counts() == {"sandboxes": 1, "warm": 1, "spare": 0, "waiting": 0}
        _, warm, _ = await pools.acquire(PYTHON, "next", silent)
        assert warm


async def test_a_caller_cancelled_in_the_moment_of_being_served_loses_no_place() -> None:
    engine = FakeEngine()
    engine.gate = anyio.Event()
    async with anyio.create_task_group() as tasks, pooled(engine, sandboxes=1, parallel_starts=1) as pools:
        callers = Callers(pools, tasks)
        scope = await callers.call("first")
        scopes = iter([scope])

        def served_soon(position: int) -> None:
            if position == 1:  # the first has just left the queue and is about to be served
                next(scopes).cancel()

        async def second() -> None:
            callers.sandboxes.append((await pools.acquire(PYTHON, "second", served_soon))[0])

        tasks.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        engine.gate.set()
        with anyio.fail_after(2):
            while not callers.sandboxes:
                await anyio.wait_all_tasks_blocked()
        assert callers.served == []
        pools.discard(callers.sandboxes[0])
        await anyio.wait_all_tasks_blocked()
        assert pools.counts() == {"sandboxes": 0, "warm": 0, "spare": 0, "waiting": 0}
        assert engine.live == 0


# --- room


async def test_what_is_discarded_twice_frees_one_place() -> None:
    engine = FakeEngine()
    async with pooled(engine, sandboxes=2) as pools:
        first, _ = await take(pools), await take(pools)
        for _ in range(3):
            pools.discard(first)
        await anyio.wait_all_tasks_blocked()
        assert pools.counts()["sandboxes"] == 1


async def test_a_place_is_taken_until_its_container_is_really_gone() -> None:
    engine = FakeEngine()
    async with pooled(engine, sandboxes=1) as pools:
        sandbox = await take(pools)
        engine.down = True
        pools.discard(sandbox)
        await anyio.wait_all_tasks_blocked()
        assert pools.counts()["sandboxes"] == engine.live == 1
        engine.down = False
        with anyio.fail_after(3):
            await take(pools)
        assert engine.live == 1


async def test_an_idle_one_of_another_pool_makes_room() -> None:
    engine = FakeEngine()
    async with pooled(engine, (PYTHON, NODE), warm=1, sandboxes=2) as pools:
        await take(pools)
        with anyio.fail_after(2):
            sandbox = await take(pools)
        assert sandbox.profile == PYTHON
        assert {c.profile.image for c in engine.started if not c.destroyed} == {"python"}


async def test_as_many_idle_ones_go_as_a_large_one_needs() -> None:
    engine = FakeEngine()
    async with pooled(engine, (PYTHON, NODE, BIG), warm=2, memory=700 * MIB) as pools:
        taken = [await take(pools, BIG)]
        with anyio.fail_after(2):
            taken.append(await take(pools, BIG))
        assert sum(c.profile.limits.memory for c in engine.started if not c.destroyed) <= 700 * MIB


async def test_one_that_could_never_fit_is_refused_at_once_and_costs_nobody_anything() -> None:
    engine = FakeEngine()
    async with pooled(engine, (PYTHON, HUGE), warm=1) as pools:
        with anyio.fail_after(0.5), pytest.raises(LimitExceeded):
            await take(pools, HUGE)
        await anyio.wait_all_tasks_blocked()
        assert pools.counts()["warm"] == 1
        assert engine.destroyed == 0


async def test_warm_ones_come_back_once_the_caller_who_needed_the_room_gives_up() -> None:
    with anyio.fail_after(5):
        async with pooled(FakeEngine(), (PYTHON, BIG), warm=1, memory=350 * MIB, queue_wait=0.05) as pools:
            await take(pools, PYTHON)
            while not pools.counts()["warm"]:
                await anyio.wait_all_tasks_blocked()
            with pytest.raises(Busy):
                await take(pools, BIG)
            # Nothing else happens that could wake a maker.
            while not pools.counts()["warm"]:
                await anyio.wait_all_tasks_blocked()


# --- an engine in trouble


async def test_who_waits_learns_at_once_that_the_engine_is_down_and_it_recovers() -> None:
    engine = FakeEngine()
    engine.down = True
    async with pooled(engine, warm=1) as pools:
        for _ in range(3):
            with anyio.fail_after(0.5), pytest.raises(EngineUnavailable):
                await take(pools)
        assert pools.last_error is not None
        engine.down = False
        with anyio.fail_after(0.5):
            sandbox = await take(pools)
        assert sandbox.alive
        assert pools.last_error is None


async def test_warm_ones_come_back_by_themselves() -> None:
    engine = FakeEngine()
    engine.fail_next(EngineUnavailable("a hiccup"))
    async with pooled(engine, warm=1, parallel_starts=1) as pools:
        assert pools.counts()["warm"] == 0
        with anyio.fail_after(3):
            while pools.counts()["warm"] == 0:
                await anyio.wait_all_tasks_blocked()
        assert pools.last_error is None


async def test_each_waiter_gets_an_error_of_its_own() -> None:
    """One that many raise would collect the frames, and the requests, of them all."""
    engine = FakeEngine()
    engine.gate = anyio.Event()
    async with anyio.create_task_group() as tasks, pooled(engine, sandboxes=1) as pools:
        callers = Callers(pools, tasks)
        await callers.call("a")
        await callers.call("b")
        engine.fail_next(ConfigError("no image", hint="build it"))
        engine.gate.set()
        await anyio.wait_all_tasks_blocked()
        first, second = callers.errors
        assert isinstance(first, ConfigError)
        assert isinstance(second, ConfigError)
        assert (first.message, first.hint) == (second.message, second.hint) == ("no image", "build it")
        assert first is not second


async def test_one_pools_failure_is_not_hidden_by_anothers_success() -> None:
    async with pooled(FakeEngine(), (replace(PYTHON, image="absent"), NODE), warm=1) as pools:
        assert pools.counts()["warm"] == 1
        assert isinstance(pools.last_error, ConfigError)


async def test_a_bug_in_an_engine_is_an_error_and_not_the_end() -> None:
    engine = FakeEngine()
    engine.fail_next(KeyError("a bug"))
    async with pooled(engine) as pools:
        with anyio.fail_after(1), pytest.raises(EngineUnavailable) as failed:
            await take(pools)
        assert "KeyError" not in str(failed.value)
        assert (await take(pools)).alive


async def test_an_engine_that_hangs_in_a_start_is_unavailable() -> None:
    engine = FakeEngine()
    engine.gate = anyio.Event()
    async with pooled(engine, start_seconds=0.05) as pools:
        with anyio.fail_after(2), pytest.raises(EngineUnavailable):
            await take(pools)
        assert pools.counts() == {"sandboxes": 0, "warm": 0, "spare": 0, "waiting": 0}
        assert engine.waiting == 0


async def test_a_start_that_fails_in_the_handshake_leaves_nothing() -> None:
    class Deaf(FakeEngine):
        async def start(self, profile: Profile, *, deadline: float) -> FakeContainer:
            container = await super().start(profile, deadline=deadline)
            container.runner.sent[:] = b"\xff" * 20
            return container

    engine = Deaf()
    async with pooled(engine) as pools:
        with anyio.fail_after(1), pytest.raises(EngineUnavailable):
            await take(pools)
        await anyio.wait_all_tasks_blocked()
        assert pools.counts()["sandboxes"] == 0
        assert len(engine.started) == 1
        assert engine.live == 0


async def test_stopping_tells_everybody_who_waits() -> None:
    engine = FakeEngine()
    engine.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with pooled(engine) as pools:
            callers = Callers(pools, tasks)
            await callers.call("a")
            await callers.call("b")
        await anyio.wait_all_tasks_blocked()
        assert [type(error) for error in callers.errors] == [EngineUnavailable] * 2
        with pytest.raises(EngineUnavailable):
            await take(pools)
        assert engine.waiting == 0
