"""A world for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tests.access.egress.world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with anyio.create_task_group() as tasks:
        world = World(tasks, tmp_path)
        yield world
        tasks.cancel_scope.cancel()
    for listener in world.listeners:
        await listener.aclose()
