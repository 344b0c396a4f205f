"""The same thing very often leaves nothing behind: containers, descriptors, threads, tasks, memory.

The suite does a little of it, `make soak` all of it (SANDBOX_TEST_SOAK=full).
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from pathlib import Path

import anyio
import psutil
import pytest

from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunRequest, SessionLimits, SessionRequest
from tests.cgroups import containers_of

pytestmark = [pytest.mark.anyio, pytest.mark.soak]

FULL = os.environ.get("SANDBOX_TEST_SOAK") == "full"
RUNS, CYCLES, REUSED = (10_000, 500, 10_000) if FULL else (60, 15, 300)
WARM_UP = 10
MEMORY_GROWTH = 20 * MIB
POOLED = {"descriptors": 8, "threads": 4}
"""Connections to the engine and worker threads are kept for a while: a leak is one more each time."""
CALLER = Caller("soaked")
PYTHON = LANGUAGES["python"]
GRANTS = {
    "python": Grant(PYTHON, Profile("python"), widest=SandboxLimits(memory=512 * MIB, pids=128), reuse=True)
}


@dataclass(frozen=True)
class Held:
    """What this process and the host hold for it."""

    containers: int
    descriptors: int
    threads: int
    tasks: int


@pytest.fixture
async def manager(docker_engine: DockerEngine) -> AsyncIterator[Manager]:
    sizing = Sizing(warm=2, sandboxes=6, reuse_uses=50, reuse_idle=0.0)
    async with Manager(docker_engine, GRANTS, sizing) as manager:
        yield manager


def held(instance: str) -> Held:
    return Held(
        containers=len(containers_of(instance)),
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        threads=threading.active_count(),
        tasks=len(asyncio.all_tasks()),
    )


async def settle(manager: Manager, instance: str) -> Held:
    """What is held once two sandboxes wait warm and nothing else goes on."""
    with anyio.fail_after(60):
        while True:
            manager._expire()  # what was kept for another run has idled for long enough
            health = await manager.health()
            now = held(instance)
            if (health["sandboxes"], health["warm"], now.containers) == (2, 2, 2):
                gc.collect()
                return now
            await anyio.sleep(0.05)


async def run(manager: Manager, code: str, session: str | None = None, *, reuse: bool = False) -> str:
    request = RunRequest("python", code, reuse=reuse)
    with anyio.fail_after(30):
        result = await manager.run(request, caller=CALLER, on_event=lambda _: None, session=session)
    assert result.outcome == "ok"
    return result.stdout.text


async def cycle(manager: Manager, number: int) -> None:
    """Open a session, every third with limits of its own, use it, close it."""
    limits = SessionLimits(pids=40 + number % 50) if number % 3 == 0 else SessionLimits()
    with anyio.fail_after(30):
        view = await manager.sessions.create(
            SessionRequest(limits=limits), caller=CALLER, on_event=lambda _: None
        )
    handle = view.info.id or ""
    await run(manager, "x = 1; open('file', 'w').write('x' * 100_000)", handle)
    if number % 2:
        await manager.sessions.reset(handle, "interpreter", caller=CALLER, on_event=lambda _: None)
    await run(manager, "import os; print(os.listdir())", handle)
    manager.sessions.close(handle, caller=CALLER)


async def soak(manager: Manager, instance: str, times: int, what: str) -> None:
    async def once(number: int) -> None:
        if what == "runs":
            assert await run(manager, f"print({number})") == f"{number}\n"
        elif what == "runs in used sandboxes":
            code = f"open('{number}', 'w').write('x' * 10_000)" if number % 10 == 0 else "pass"
            assert await run(manager, f"{code}\nprint({number})", reuse=True) == f"{number}\n"
        else:
            await cycle(manager, number)

    for number in range(WARM_UP):
        await once(number)
    before = await settle(manager, instance)
    memory = psutil.Process().memory_info().rss
    for number in range(times):
        await once(number)
    after = await settle(manager, instance)
    grown = psutil.Process().memory_info().rss - memory
    print(f"{times} {what}: {grown / MIB:.1f} MiB more; {after}")
    for name in (field.name for field in fields(Held)):
        assert getattr(after, name) - getattr(before, name) <= POOLED.get(name, 0), name
    assert grown < MEMORY_GROWTH
    assert manager._pools.profiles == 1
    assert len(manager._desk._underway) == 0


async def test_many_runs_leave_nothing(manager: Manager, instance: str) -> None:
    await soak(manager, instance, RUNS, "runs")


async def test_many_runs_in_used_sandboxes_leave_nothing(manager: Manager, instance: str) -> None:
    await soak(manager, instance, REUSED, "runs in used sandboxes")


async def test_many_sessions_opened_and_closed_leave_nothing(manager: Manager, instance: str) -> None:
    await soak(manager, instance, CYCLES, "sessions")
    assert manager.sessions.registry.held == 0
