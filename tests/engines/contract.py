"""What every engine must keep: the guarantees of `engines/base.py`, through its public door.

A subclass gives `make_engine`, which makes engine objects that share one host.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import anyio
import pytest

from sandbox_server.engines.base import Container, Engine, Owner
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import ConfigError
from tests.engines.driver import Driver

MakeEngine = Callable[[Owner], Engine]


def later() -> float:
    return time.time() + 600


async def drain(container: Container) -> None:
    """Read until the stream ends; fails the test if it goes on for long."""
    with anyio.fail_after(10):
        while True:
            try:
                await container.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


class EngineContract:
    @pytest.fixture
    def profile(self) -> Profile:
        return Profile("python")

    @pytest.fixture
    async def engine(self, make_engine: MakeEngine, owner: Owner) -> AsyncIterator[Engine]:
        engine = make_engine(owner)
        try:
            yield engine
        finally:
            await engine.aclose()

    @pytest.fixture
    async def next_boot(self, make_engine: MakeEngine, owner: Owner) -> AsyncIterator[Engine]:
        """The same instance after a restart."""
        engine = make_engine(Owner(owner.instance, uuid4().hex))
        try:
            yield engine
        finally:
            await engine.aclose()

    async def test_probe_says_what_the_engine_is(self, engine: Engine) -> None:
        info = await engine.probe()
        assert info.name
        assert info.version
        assert "runc" in info.runtimes

    async def test_a_profile_this_host_can_make_passes_the_check(
        self, engine: Engine, profile: Profile
    ) -> None:
        await engine.check(profile)

    async def test_a_missing_image_is_the_operators_to_mend(self, engine: Engine) -> None:
        with pytest.raises(ConfigError) as refused:
            await engine.check(Profile("no-such-image"))
        assert "no-such-image" in refused.value.message
        assert refused.value.hint
        with pytest.raises(ConfigError):
            await engine.start(Profile("no-such-image"), deadline=later())

    async def test_a_started_container_says_hello_and_answers(self, engine: Engine, profile: Profile) -> None:
        container = await engine.start(profile, deadline=later())
        runner = Driver(container)
        with anyio.fail_after(10):
            await runner.greet()
            assert (await runner.ping())["ok"] is True
        assert container.id

    async def test_a_living_container_has_no_exit_code(self, engine: Engine, profile: Profile) -> None:
        container = await engine.start(profile, deadline=later())
        death = await container.death()
        assert death.exit_code is None
        assert not death.out_of_memory
        assert death.reason

    async def test_destroying_ends_the_stream_and_can_be_repeated(
        self, engine: Engine, profile: Profile
    ) -> None:
        container = await engine.start(profile, deadline=later())
        await container.destroy()
        await drain(container)
        await container.destroy()
        assert (await container.death()).reason

    async def test_many_may_destroy_one_container_at_once(
        self, engine: Engine, profile: Profile, next_boot: Engine
    ) -> None:
        container = await engine.start(profile, deadline=later())
        with anyio.fail_after(15):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(container.destroy)
        assert await next_boot.sweep() == 0

    async def test_a_cancelled_destroy_still_destroys(
        self, engine: Engine, profile: Profile, next_boot: Engine
    ) -> None:
        container = await engine.start(profile, deadline=later())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await container.destroy()
        assert await next_boot.sweep() == 0

    async def test_a_waiting_reader_wakes_when_the_container_is_destroyed(
        self, engine: Engine, profile: Profile
    ) -> None:
        container = await engine.start(profile, deadline=later())
        async with anyio.create_task_group() as group:
            group.start_soon(drain, container)
            await anyio.wait_all_tasks_blocked()
            await container.destroy()

    async def test_the_runner_ends_when_its_stdin_does(self, engine: Engine, profile: Profile) -> None:
        container = await engine.start(profile, deadline=later())
        await Driver(container).greet()
        await container.stream.send_eof()
        await drain(container)
        death = await container.death()
        assert death.exit_code == 0
        assert not death.out_of_memory

    @pytest.mark.parametrize("milliseconds", [0, 10, 30, 60, 100, 200])
    async def test_a_cancelled_start_leaves_nothing_behind(
        self, engine: Engine, profile: Profile, next_boot: Engine, milliseconds: int
    ) -> None:
        started: list[Container] = []

        async def start() -> None:
            started.append(await engine.start(profile, deadline=later()))

        with anyio.move_on_after(milliseconds / 1000):
            await start()
        assert await next_boot.sweep() == len(started)

    async def test_starts_may_run_side_by_side(self, engine: Engine, profile: Profile) -> None:
        started: list[Container] = []

        async def start() -> None:
            started.append(await engine.start(profile, deadline=later()))

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(start)
        assert len({container.id for container in started}) == 4
        for container in started:
            with anyio.fail_after(10):
                await Driver(container).greet()

    async def test_a_sweep_removes_what_earlier_boots_left(
        self, engine: Engine, profile: Profile, next_boot: Engine
    ) -> None:
        left = await engine.start(profile, deadline=later())
        kept = await next_boot.start(profile, deadline=later())
        assert await next_boot.sweep() == 1
        await drain(left)
        assert (await kept.death()).exit_code is None
        await Driver(kept).greet()

    async def test_a_sweep_leaves_other_instances_alone(
        self, engine: Engine, profile: Profile, make_engine: MakeEngine
    ) -> None:
        container = await engine.start(profile, deadline=later())
        stranger = make_engine(Owner(f"test-other-{uuid4().hex[:8]}", "boot"))
        assert await stranger.sweep() == 0
        await Driver(container).greet()
        await stranger.aclose()

    async def test_a_reap_removes_only_what_is_overdue(self, engine: Engine, profile: Profile) -> None:
        overdue = await engine.start(profile, deadline=1000)
        kept = await engine.start(profile, deadline=5000)
        assert await engine.reap(now=2000) == 1
        await drain(overdue)
        await Driver(kept).greet()

    async def test_a_reap_removes_containers_of_this_boot_that_nobody_owns(
        self, engine: Engine, profile: Profile, make_engine: MakeEngine, owner: Owner
    ) -> None:
        forgetful = make_engine(owner)
        orphan = await forgetful.start(profile, deadline=later())
        kept = await engine.start(profile, deadline=later())
        assert await engine.reap(now=time.time()) == 1
        await drain(orphan)
        await Driver(kept).greet()
        await orphan.destroy()
        await forgetful.aclose()

    async def test_a_reap_spares_containers_that_are_being_started(
        self, engine: Engine, profile: Profile
    ) -> None:
        started: list[Container] = []

        async def start() -> None:
            started.append(await engine.start(profile, deadline=later()))

        async with anyio.create_task_group() as group:
            group.start_soon(start)
            while not started:
                assert await engine.reap(now=time.time()) == 0
        await Driver(started[0]).greet()

    async def test_closing_the_engine_removes_everything_and_can_be_repeated(
        self, engine: Engine, profile: Profile, next_boot: Engine
    ) -> None:
        containers = [await engine.start(profile, deadline=later()) for _ in range(2)]
        await engine.aclose()
        for container in containers:
            await drain(container)
        await engine.aclose()
        assert await next_boot.sweep() == 0
