"""How long a session that a caller made lives, and what is said of it."""

from __future__ import annotations

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
)
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.process_models import ProcessView
from tests.execution.handles import ALICE, cell, create, handle_of, refusal
from tests.execution.support import SIZING, container_of, managed, nothing_left

pytestmark = pytest.mark.anyio

RUNNING = ProcessView("p1-0000", "true", True, None, None, False, 0.0, 0, None)


async def test_what_is_said_of_the_time_left_is_true(engine: FakeEngine) -> None:
    async with managed(engine, session_idle=100.0, session_ttl=1000.0) as manager:
        session = await create(manager, ttl=50.0)
        assert session.info.expires_in == pytest.approx(50.0, abs=0.5)
        longer = manager.sessions.extend(handle_of(session), 80.0, caller=ALICE)
        assert longer.info.expires_in == pytest.approx(80.0, abs=0.5)
        longest = manager.sessions.extend(handle_of(session), None, caller=ALICE)
        assert longest.info.expires_in == pytest.approx(100.0, abs=0.5)  # idle
        result = await cell(manager, session, "out hi")
        assert result.session.expires_in == pytest.approx(100.0, abs=0.5)
        with pytest.raises(LimitExceeded, match="more than this session can have"):
            manager.sessions.extend(handle_of(session), 1001.0, caller=ALICE)


async def test_looking_does_not_prolong(engine: FakeEngine) -> None:
    async with managed(engine) as manager:
        session = await create(manager)
        before = manager.sessions.info(handle_of(session), caller=ALICE).info.expires_in
        after = manager.sessions.info(handle_of(session), caller=ALICE).info.expires_in
        assert before is not None
        assert after is not None
        assert after < before < SIZING.session_idle


@pytest.mark.parametrize("sizing", [{"session_idle": 0.0}, {"session_ttl": 1e-9}])
async def test_an_expired_handle_says_that_it_expired_and_that_nothing_survived(
    engine: FakeEngine, sizing: dict[str, float]
) -> None:
    async with managed(engine, **sizing) as manager:
        session = await create(manager)
        for _ in range(2):
            over = await refusal(lambda: cell(manager, session, "out hi"))
            assert isinstance(over, NotFound)
            assert "expired" in over.message
            assert "gone" in over.message
        assert await nothing_left(manager, engine)


async def test_an_expired_session_is_destroyed_without_any_call(engine: FakeEngine) -> None:
    with anyio.fail_after(5):
        async with managed(engine, session_idle=0.0, reap_every=0.02) as manager:
            session = await create(manager)
            while engine.live:
                await anyio.wait_all_tasks_blocked()
            assert "expired" in (await refusal(lambda: cell(manager, session, "out hi"))).message


async def test_a_sandbox_that_does_not_say_what_it_has_used_holds_up_no_end(engine: FakeEngine) -> None:
    with anyio.fail_after(5):
        async with managed(engine, reap_every=0.02) as manager:
            await cell(manager, await create(manager), "out hi")
            (silent,) = manager.sessions.registry.all()
            assert silent.sandbox is not None
            runner = container_of(silent.sandbox).runner
            runner.deaf_to_processes = True
            silent.sandbox.meter.read(0, [RUNNING])
            while not runner.unanswered:
                await anyio.wait_all_tasks_blocked()
            await create(manager, ttl=1e-9)
            while len(manager.sessions.registry) > 1:
                await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("ttl", "error"), [(0.0, InvalidRequest), (-1.0, InvalidRequest), (1e9, LimitExceeded)]
)
async def test_a_ttl_beyond_the_policy_makes_no_session(
    manager: Manager, engine: FakeEngine, ttl: float, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await create(manager, ttl=ttl)
    assert engine.started == []
