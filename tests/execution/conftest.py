"""A manager on the fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from sandbox_server.engines.fake import FakeEngine
from sandbox_server.execution.manager import Manager
from tests.execution.support import managed


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def manager(engine: FakeEngine) -> AsyncIterator[Manager]:
    with anyio.fail_after(20):
        async with managed(engine) as manager:
            yield manager
