"""The books of the pools, whatever callers and the engine do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server.engines.base import Death
from sandbox_server.engines.fake import FakeContainer, FakeEngine
from sandbox_server.engines.profile import MIB, Profile
from sandbox_server.errors import EngineUnavailable
from sandbox_server.execution.sandbox import Sandbox
from tests.execution.support import BIG, NODE, PYTHON, container_of, pooled, take


class Watched(FakeEngine):
    """Notes the most that existed at once, what is being started included."""

    def __init__(self) -> None:
        super().__init__()
        self.starting: list[Profile] = []
        self.most = 0
        self.most_memory = 0

    async def start(self, profile: Profile, *, deadline: float) -> FakeContainer:
        self.starting.append(profile)
        existing = [*self.starting, *(c.profile for c in self.host.containers.values())]
        self.most = max(self.most, len(existing))
        self.most_memory = max(self.most_memory, sum(each.limits.memory for each in existing))
        try:
            return await super().start(profile, deadline=deadline)
        finally:
            self.starting.remove(profile)


@dataclass(frozen=True)
class Call:
    """A caller: when it comes, how long it holds what it gets, and when it is cancelled, in steps."""

    profile: Profile
    principal: str
    comes: int
    holds: int
    cancelled: int | None
    dies: bool


@dataclass
class Story:
    calls: list[Call]
    failures: list[int]
    warm: int
    sandboxes: int
    memory: int
    deaths: list[int] = field(default_factory=list)


CALLS = st.builds(
    Call,
    st.sampled_from([PYTHON, NODE, BIG]),
    st.sampled_from("abc"),
    st.integers(0, 30),
    st.integers(0, 20),
    st.none() | st.integers(0, 60),
    st.booleans(),
)
STORIES = st.builds(
    Story,
    st.lists(CALLS, max_size=14),
    st.lists(st.integers(0, 40), max_size=3),
    st.integers(0, 2),
    st.integers(1, 4),
    st.integers(300, 700).map(lambda mib: mib * MIB),
    st.lists(st.integers(0, 60), max_size=3),
)


async def steps(number: int) -> None:
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


async def play(story: Story) -> None:
    engine = Watched()
    handed_out: list[Sandbox] = []
    sizing = {"warm": story.warm, "sandboxes": story.sandboxes, "memory": story.memory}

    async def live(call: Call) -> None:
        await steps(call.comes)
        sandbox: Sandbox | None = None
        try:
            sandbox = await take(pools, call.profile, call.principal)
            assert sandbox.alive
            assert sandbox.profile == call.profile
            handed_out.append(sandbox)
            if call.dies:
                container_of(sandbox).runner.death = Death(1, False, "died")
                container_of(sandbox).stream.wake()
            await steps(call.holds)
        except EngineUnavailable:
            assert story.failures or story.deaths  # one may die in the handshake
        finally:
            if sandbox:
                pools.discard(sandbox)
                pools.discard(sandbox)

    async def cancel(after: int, scope: anyio.CancelScope) -> None:
        await steps(after)
        scope.cancel()

    async def call(each: Call) -> None:
        async with anyio.create_task_group() as both:
            if each.cancelled is not None:
                both.start_soon(cancel, each.cancelled, both.cancel_scope)
            await live(each)
            both.cancel_scope.cancel()

    async def later(after: int, act: Callable[[], None]) -> None:
        await steps(after)
        act()

    def kill_one() -> None:
        for container in engine.host.containers.values():
            container.runner.death = container.runner.death or Death(1, False, "killed")
            container.stream.wake()
            return

    with anyio.fail_after(20):
        async with pooled(engine, (PYTHON, NODE, BIG), queue=100, queue_wait=15, **sizing) as pools:
            async with anyio.create_task_group() as tasks:
                for each in story.calls:
                    tasks.start_soon(call, each)
                for after in story.failures:
                    tasks.start_soon(later, after, lambda: engine.fail_next(EngineUnavailable("a hiccup")))
                for after in story.deaths if not any(c.dies for c in story.calls) else []:
                    tasks.start_soon(later, after, kill_one)
            await anyio.wait_all_tasks_blocked()
            counts = pools.counts()
            assert counts["waiting"] == 0
            assert counts["sandboxes"] == counts["warm"] == engine.live
    assert len(set(handed_out)) == len(handed_out)
    assert engine.most <= story.sandboxes
    assert engine.most_memory <= story.memory


@settings(max_examples=60)
@given(STORIES)
def test_whatever_callers_and_the_engine_do(story: Story) -> None:
    """Never too many at once, never one for two, and at the end every place is accounted for."""
    anyio.run(play, story)
