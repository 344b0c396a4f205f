"""200 calls of 5 principals at once on real sandboxes, of which there are never more than 4."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil
import pytest

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Queued, RunEvent, RunRequest
from sandbox_server.images.recipes import tag_of
from tests.cgroups import containers_of

pytestmark = pytest.mark.anyio

PRINCIPALS = ("ann", "bea", "cem", "dan", "eva")
EACH = 40
SANDBOXES = 4
GROWTH = 32 * MIB


@dataclass
class Crowd:
    manager: Manager
    instance: str
    served: list[str] = field(default_factory=list)
    answers: dict[tuple[str, int], str] = field(default_factory=dict)
    positions: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    most: int = 0
    """Containers that were seen at once."""

    async def call(self, principal: str, number: int) -> None:
        told = self.positions[principal, number] = []

        def on_event(event: RunEvent) -> None:
            if isinstance(event, Queued):
                told.append(event.position)

        code = f"import os; print({principal!r}, {number}, len(os.listdir()))\nopen('left', 'w')"
        result = await self.manager.run(
            RunRequest("python", code), caller=Caller(principal), on_event=on_event
        )
        self.served.append(principal)
        self.answers[principal, number] = result.stdout.text
        self.most = max(self.most, len(containers_of(self.instance)))


@asynccontextmanager
async def crowded(owner: Owner) -> AsyncIterator[Crowd]:
    grant = Grant(LANGUAGES["python"], Profile("python"))
    sizing = Sizing(
        warm=SANDBOXES,
        sandboxes=SANDBOXES,
        queue=len(PRINCIPALS) * EACH,
        queue_wait=120,
        runs_per_principal=EACH,
        reap_every=0.1,
    )
    async with Manager(DockerEngine(owner, tag_of), {"python": grant}, sizing) as manager:
        yield Crowd(manager, owner.instance)


@dataclass(frozen=True)
class Held:
    descriptors: int
    threads: int
    tasks: int


async def all_warm(crowd: Crowd) -> bool:
    return (await crowd.manager.health())["warm"] == SANDBOXES


async def settled(crowd: Crowd) -> Held:
    """What is held once as many sandboxes as there may be wait warm."""
    with anyio.fail_after(30):
        while len(containers_of(crowd.instance)) != SANDBOXES or not await all_warm(crowd):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    gc.collect()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    return Held(descriptors, threading.active_count(), len(asyncio.all_tasks()))


async def come(crowd: Crowd, each: int) -> None:
    async with anyio.create_task_group() as tasks:
        # The worst order: each principal comes with all its calls before the next one.
        for principal in PRINCIPALS:
            for number in range(each):
                tasks.start_soon(crowd.call, principal, number)


async def test_200_calls_at_once_are_all_answered_each_to_its_caller_in_turn(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    async with crowded(owner) as crowd:
        await come(crowd, 2)  # connections and threads to the engine, which stay
        before = await settled(crowd)
        memory = psutil.Process().memory_info().rss
        crowd.served.clear()
        with anyio.fail_after(120):
            await come(crowd, EACH)
        assert Counter(crowd.served) == dict.fromkeys(PRINCIPALS, EACH)
        wanted = {(who, number): f"{who} {number} 0\n" for who in PRINCIPALS for number in range(EACH)}
        assert {key: text for key, text in crowd.answers.items() if key in wanted} == wanted
        # In turn from the first to the last, but for the few that run at once and end in any order.
        for end in range(1, len(crowd.served) + 1):
            so_far = Counter(crowd.served[:end])
            counts = [so_far[principal] for principal in PRINCIPALS]
            assert max(counts) - min(counts) <= 2 + SANDBOXES
        assert all(told[-1] == 1 for told in crowd.positions.values() if told)
        assert sum(1 for told in crowd.positions.values() if told) >= len(wanted) - SANDBOXES
        assert 0 < crowd.most <= SANDBOXES
        after = await settled(crowd)
        assert after.tasks <= before.tasks
        assert after.threads <= before.threads + 2
        assert after.descriptors <= before.descriptors + 8
        assert psutil.Process().memory_info().rss - memory < GROWTH
        assert len(crowd.manager._desk._underway) == 0
        assert (await crowd.manager.health())["waiting"] == 0
    assert containers_of(owner.instance) == set()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
