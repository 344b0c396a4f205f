"""Sessions with limits of their own: within the policy, never kept warm, and their pools go with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import Busy, EngineUnavailable, InvalidRequest, LimitExceeded
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import SessionLimits, SessionRequest, SessionView
from sandbox_server.execution.tailored import profile_for
from tests.execution.support import PYTHON, SIZING, Callers, ignore, nothing_left, pooled, take

pytestmark = pytest.mark.anyio

OWN = SandboxLimits(memory=256 * MIB, pids=64, cpus=1.0, workspace=64 * MIB)
WIDEST = SandboxLimits(memory=512 * MIB, pids=128, cpus=2.0, workspace=128 * MIB)
GRANT = Grant(LANGUAGES["python"], Profile("python", OWN), widest=WIDEST)
ALICE = Caller("alice")


@pytest.fixture
async def wide(engine: FakeEngine) -> AsyncIterator[Manager]:
    with anyio.fail_after(20):
        async with Manager(engine, {"python": GRANT}, SIZING) as manager:
            await anyio.wait_all_tasks_blocked()
            yield manager


async def create(manager: Manager, **limits: Any) -> SessionView:
    request = SessionRequest(limits=SessionLimits(**limits))
    return await manager.sessions.create(request, caller=ALICE, on_event=ignore)


# --- which


def test_what_is_not_asked_for_is_the_policys() -> None:
    assert profile_for(SessionLimits(), GRANT) == GRANT.profile
    asked = SessionLimits(memory=512 * MIB, pids=8, cpus=0.5, workspace=MIB)
    limits = profile_for(asked, GRANT).limits
    assert (limits.memory, limits.pids, limits.cpus, limits.workspace) == (512 * MIB, 8, 0.5, MIB)
    assert (limits.tmp, limits.shm, limits.inodes, limits.open_files) == (
        OWN.tmp,
        OWN.shm,
        OWN.inodes,
        OWN.open_files,
    )


def test_a_file_may_fill_a_larger_workspace_if_it_may_fill_the_policys() -> None:
    assert profile_for(SessionLimits(workspace=128 * MIB), GRANT).limits.file_size == 128 * MIB
    small = Grant(LANGUAGES["python"], Profile("python", SandboxLimits(file_size=MIB)), widest=WIDEST)
    assert profile_for(SessionLimits(workspace=128 * MIB), small).limits.file_size == MIB


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (SessionLimits(memory=512 * MIB + 1), LimitExceeded),
        (SessionLimits(pids=129), LimitExceeded),
        (SessionLimits(cpus=2.01), LimitExceeded),
        (SessionLimits(workspace=129 * MIB), LimitExceeded),
        (SessionLimits(memory=MIB), InvalidRequest),
        (SessionLimits(pids=0), InvalidRequest),
        (SessionLimits(cpus=float("nan")), InvalidRequest),
        (SessionLimits(workspace=-1), InvalidRequest),
        (SessionLimits(memory=112 * MIB), InvalidRequest),  # what its tmpfs hold
    ],
)
def test_beyond_the_policy_or_reason_is_refused(asked: SessionLimits, error: type[Exception]) -> None:
    with pytest.raises(error):
        profile_for(asked, GRANT)


def test_without_ceilings_a_session_may_only_have_less() -> None:
    plain = Grant(LANGUAGES["python"], Profile("python", OWN))
    assert profile_for(SessionLimits(pids=32), plain).limits.pids == 32
    with pytest.raises(LimitExceeded):
        profile_for(SessionLimits(pids=65), plain)


# --- pools that come and go


async def test_a_session_gets_the_limits_it_asked_for_and_its_pool_goes_again(
    wide: Manager, engine: FakeEngine
) -> None:
    pools = wide._pools
    before = pools.profiles
    for pids in range(20, 40):
        view = await create(wide, pids=pids)
        assert view.limits.pids == pids
        assert engine.started[-1].profile.limits.pids == pids
        assert view.info.id is not None
        wide.sessions.close(view.info.id, caller=ALICE)
        await anyio.wait_all_tasks_blocked()
    assert pools.profiles == before
    assert await nothing_left(wide, engine)


async def test_a_profile_of_ones_own_is_never_kept_warm(engine: FakeEngine) -> None:
    own = Profile("python", WIDEST)
    async with pooled(engine, (PYTHON,), warm=2) as pools:
        sandbox = await take(pools, own)
        await anyio.wait_all_tasks_blocked()
        assert [c.profile for c in engine.started].count(own) == 1
        pools.discard(sandbox)
        await anyio.wait_all_tasks_blocked()
        assert pools.profiles == 1
        assert pools.counts()["sandboxes"] == 2


async def test_a_caller_that_gave_up_leaves_neither_pool_nor_sandbox(engine: FakeEngine) -> None:
    own = Profile("python", WIDEST)
    async with pooled(engine, (PYTHON,)) as pools:
        engine.gate = anyio.Event()
        with anyio.move_on_after(0.05):
            await take(pools, own)
        engine.gate.set()
        await anyio.wait_all_tasks_blocked()
        assert (pools.profiles, engine.live, pools.counts()["sandboxes"]) == (1, 0, 0)


async def test_a_start_that_failed_leaves_no_pool(engine: FakeEngine) -> None:
    async with pooled(engine, (PYTHON,)) as pools:
        engine.fail_next(EngineUnavailable("a hiccup"))
        with pytest.raises(EngineUnavailable):
            await take(pools, Profile("python", WIDEST))
        await anyio.wait_all_tasks_blocked()
        assert pools.profiles == 1
        assert pools.last_error is None


async def test_a_full_queue_leaves_no_pool(engine: FakeEngine) -> None:
    engine.gate = anyio.Event()
    async with pooled(engine, (PYTHON,), queue=1) as pools, anyio.create_task_group() as tasks:
        tasks.start_soon(take, pools)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Busy):
            await take(pools, Profile("python", WIDEST), "p")
        assert pools.profiles == 1
        engine.gate.set()


async def test_many_profiles_of_one_principal_do_not_delay_another(engine: FakeEngine) -> None:
    engine.gate = anyio.Event()
    own = [Profile("python", SandboxLimits(memory=100 * MIB, pids=pids)) for pids in range(20, 28)]
    async with pooled(engine, (PYTHON,), sandboxes=1) as pools, anyio.create_task_group() as tasks:
        callers = Callers(pools, tasks)
        for profile in own:
            await callers.call("greedy", profile)
        await callers.call("modest")
        engine.gate.set()
        await anyio.wait_all_tasks_blocked()
        for served in range(1, 3):
            assert len(callers.served) == served
            pools.discard(callers.sandboxes[-1])
            await anyio.wait_all_tasks_blocked()
        assert callers.served[1] == "modest"
        tasks.cancel_scope.cancel()
