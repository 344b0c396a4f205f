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
        yield World(tasks, tmp_path)
        tasks.cancel_scope.cancel()
