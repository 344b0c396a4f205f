"""One-shot runs that follow each other in one sandbox: whose it is, and when it is not used again."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeContainer, FakeEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import InvalidRequest, PolicyDenied, SandboxLost
from sandbox_server.execution.manager import Manager
from tests.execution.support import NODE, PYTHON, container_of, managed, pooled, run, silent

pytestmark = pytest.mark.anyio


async def again(manager: Manager, code: str = "out hi", principal: str = "p", **changes: object) -> bool:
    """Run with reuse, let the pools settle, and say whether it was in a used sandbox."""
    result = await run(manager, code, principal=principal, reuse=True, **changes)
    await anyio.wait_all_tasks_blocked()
    return result.timings.reused


async def test_the_next_run_of_the_same_caller_is_in_the_same_sandbox(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        assert [await again(manager) for _ in range(4)] == [False, True, True, True]
        (container,) = engine.started
        assert (container.runner.ran, container.runner.scrubs) == (4, 0)


async def test_the_peak_of_an_earlier_run_is_not_told_as_that_of_a_later_one(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        peaks = []
        for _ in range(2):
            result = await run(manager, "out hi", principal="p", reuse=True)
            peaks.append(result.usage.peak_memory)
            await anyio.wait_all_tasks_blocked()
        assert (peaks[0] is not None, peaks[1]) == (True, None)


async def test_what_a_run_leaves_is_scrubbed_before_the_next(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        assert [await again(manager, "mess"), await again(manager)] == [False, True]
        assert engine.started[0].runner.scrubs == 1


async def test_its_files_are_fetched_before_they_are_scrubbed(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        result = await run(manager, "save made.txt content", reuse=True)
        assert [artifact.path for artifact in result.artifacts if artifact.uri] == ["made.txt"]
        await anyio.wait_all_tasks_blocked()
        assert engine.started[0].runner.files == {}


async def test_another_caller_never_gets_it(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        for principal in ("a", "b", "c"):
            assert not await again(manager, principal=principal)
        assert await again(manager, principal="b")
        assert len(engine.started) == 3


async def test_who_does_not_ask_for_it_gets_a_sandbox_that_nobody_has_used(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        await again(manager)
        assert not (await run(manager, "out hi", principal="p")).timings.reused


async def test_a_session_begins_in_a_sandbox_that_nobody_has_used(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        await again(manager)
        await run(manager, "set x 1", principal="p", on="c")
        assert [container.runner.ran for container in engine.started] == [1, 1]


@pytest.mark.parametrize("code", ["stain", "crowd", "oom", "die", "wait"])
async def test_a_sandbox_that_is_not_proved_clean_is_replaced(engine: FakeEngine, code: str) -> None:
    async with managed(engine, reuse=True) as manager:
        with pytest.raises(SandboxLost) if code == "die" else nullcontext():
            await again(manager, code, wall=0.05)
        await anyio.wait_all_tasks_blocked()
        assert engine.live == 0
        assert not await again(manager)


async def test_a_run_that_is_cancelled_is_the_last_in_its_sandbox(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        await again(manager)
        with anyio.move_on_after(0.02):
            await run(manager, "wait", principal="p", reuse=True)
        await anyio.wait_all_tasks_blocked()
        assert engine.live == 0


async def test_after_so_many_runs_it_is_replaced(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True, reuse_uses=3) as manager:
        assert [await again(manager) for _ in range(5)] == [False, True, True, False, True]


async def test_nobody_is_kept_for_longer_than_that(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True, reuse_idle=0.0) as manager:
        await again(manager)
        assert engine.live == 1
        manager._expire()
        await anyio.wait_all_tasks_blocked()
        assert engine.live == 0


async def test_one_that_dies_while_it_is_kept_is_noticed(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        await again(manager)
        engine.started[0].runner.death = Death(137, False, "killed")
        engine.started[0].stream.wake()
        await anyio.wait_all_tasks_blocked()
        assert engine.live == 0
        assert not await again(manager)


async def test_a_caller_keeps_no_more_than_it_may(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True, reuse_each=2) as manager:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(again, manager)
        await anyio.wait_all_tasks_blocked()
        health = await manager.health()
        assert health["spare"] == 2
        assert health["sandboxes"] == health["spare"] + health["warm"] == engine.live


async def test_what_is_kept_makes_room_for_others(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True, sandboxes=2) as manager:
        await again(manager, principal="a")
        async with anyio.create_task_group() as tasks:
            for on in ("c", "d"):
                tasks.start_soon(lambda on: run(manager, "out hi", principal="b", on=on), on)
        await anyio.wait_all_tasks_blocked()
        health = await manager.health()
        assert (health["spare"], health["sessions"]) == (0, 2)


async def test_a_call_that_waits_gets_its_own_sandbox_back_unless_others_wait(engine: FakeEngine) -> None:
    async with pooled(engine, sandboxes=1) as pools:
        served: list[tuple[str, bool]] = []

        async def call(principal: str) -> None:
            taken = await pools.acquire(PYTHON, principal, silent, reuse=True)
            served.append((principal, taken.sandbox.uses > 0))
            container_of(taken.sandbox).runner.memory = None
            pools.give_back(taken.sandbox, principal)

        first = (await pools.acquire(PYTHON, "a", silent, reuse=True)).sandbox
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, "a")
            await anyio.wait_all_tasks_blocked()
            pools.give_back(first, "a")
        assert served == [("a", True)]
        await anyio.wait_all_tasks_blocked()
        held = (await pools.acquire(PYTHON, "a", silent, reuse=True)).sandbox
        async with anyio.create_task_group() as tasks:
            for principal in ("a", "b"):
                tasks.start_soon(call, principal)
                await anyio.wait_all_tasks_blocked()
            pools.give_back(held, "a")
        assert sorted(served[1:]) == [("a", False), ("b", False)]


async def test_without_a_grant_it_is_refused(engine: FakeEngine) -> None:
    async with managed(engine) as manager:
        with pytest.raises(PolicyDenied, match="does not grant reuse for python"):
            await run(manager, "out hi", reuse=True)
    assert engine.started == []


async def test_a_call_with_a_session_can_not_have_it(engine: FakeEngine) -> None:
    async with managed(engine, reuse=True) as manager:
        for place in ({"on": "c"}, {"session": "0" * 32}):
            with pytest.raises(InvalidRequest, match="runs without a session"):
                await run(manager, "out hi", reuse=True, **place)
    assert engine.started == []


# --- whatever happens

CALLS = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from([PYTHON, NODE]),
    st.sampled_from(["clean", "stain", "discard", "dies"]),
    st.booleans(),
    st.integers(0, 12),
)


async def play(calls: list[tuple[str, Profile, str, bool, int]], sandboxes: int) -> None:
    engine = FakeEngine()
    users: dict[FakeContainer, list[tuple[str, bool]]] = defaultdict(list)

    async def call(principal: str, profile: Profile, ending: str, reuse: bool, comes: int) -> None:
        for _ in range(comes):
            await anyio.lowlevel.checkpoint()
        sandbox = (await pools.acquire(profile, principal, silent, reuse=reuse)).sandbox
        container = container_of(sandbox)
        assert sandbox.profile == profile
        users[container].append((principal, reuse))
        await anyio.lowlevel.checkpoint()
        container.runner.stained = ending == "stain"
        if ending == "dies":
            container.runner.death = Death(1, False, "died")
            container.stream.wake()
        if ending == "discard" or not reuse:
            pools.discard(sandbox)
        else:
            pools.give_back(sandbox, principal)

    with anyio.fail_after(20):
        async with pooled(engine, (PYTHON, NODE), sandboxes=sandboxes, queue=100, queue_wait=15) as pools:
            async with anyio.create_task_group() as tasks:
                for each in calls:
                    tasks.start_soon(call, *each)
            await anyio.wait_all_tasks_blocked()
            counts = pools.counts()
            assert counts["sandboxes"] == counts["warm"] + counts["spare"] == engine.live <= sandboxes
    for uses in users.values():
        assert len({principal for principal, _ in uses}) == 1
        assert len(uses) == 1 or all(reuse for _, reuse in uses)


@settings(max_examples=80)
@given(st.lists(CALLS, max_size=16), st.integers(1, 4))
def test_no_sandbox_ever_has_two_users_and_the_books_are_right(
    calls: list[tuple[str, Profile, str, bool, int]], sandboxes: int
) -> None:
    anyio.run(play, calls, sandboxes)
