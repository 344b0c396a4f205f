from __future__ import annotations

import pytest

from tests.e2e.node.npm import NodeTools, install


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def node() -> NodeTools:
    return install()
