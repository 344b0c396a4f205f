"""Fixtures for everybody. Tests run against a real Docker Engine: without one they fail, they never skip."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.errors import EngineUnavailable
from sandbox_server.images.recipes import tag_of
from tests.cgroups import remove_groups
from tests.databases import mariadb, postgres  # noqa: F401  (fixtures)

# Both go by the clock on the wall: a busy host fails them, whatever the code is like. What must be quick is
# measured in bench/, as a ratio.
settings.register_profile("any host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any host")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The image `polyglot` is large: its tests run when they are asked for (`make test-polyglot`)."""
    asked = any("polyglot" in argument for argument in config.args)
    return True if collection_path.name == "polyglot" and not asked else None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def instance() -> Iterator[str]:
    """An instance name of this test session alone, so that sessions side by side don't sweep each other."""
    name = f"test-{uuid4().hex[:12]}"
    yield name
    remove_groups(name)


@pytest.fixture
def owner(instance: str) -> Owner:
    """A new boot of this session's instance."""
    return Owner(instance, uuid4().hex)


@pytest.fixture(scope="session")
def gvisor_host() -> str:
    """The address of an engine that has gVisor. `make test` starts one where the main engine has none."""
    host = os.environ.get("SANDBOX_TEST_GVISOR_HOST")
    if not host:
        pytest.fail("this test needs an engine with gVisor: run it with scripts/test.sh", pytrace=False)
    return host


@pytest.fixture
async def docker_engine(owner: Owner) -> AsyncIterator[DockerEngine]:
    """The real engine with our images; whatever the test leaves running is removed."""
    engine = DockerEngine(owner, tag_of)
    try:
        await engine.probe()
    except EngineUnavailable as error:
        pytest.fail(f"these tests need a running Docker Engine: {error}", pytrace=False)
    try:
        yield engine
    finally:
        await engine.aclose()
