"""Fixtures of the hostile programs: one manager for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from uuid import uuid4

import anyio
import pytest

from sandbox_server.execution.api import Caller
from sandbox_server.execution.file_models import FileOperation, FileResult
from sandbox_server.execution.models import RunResult
from tests.hostile.background_place import Station, open_station
from tests.hostile.egress_place import Egress, open_egress
from tests.hostile.file_place import Place
from tests.hostile.lab import Lab, open_lab

Run = Callable[..., Awaitable[RunResult]]


@pytest.fixture(scope="package")
async def lab(anyio_backend: str) -> AsyncIterator[Lab]:
    async with open_lab() as lab:
        yield lab


@pytest.fixture
def run(lab: Lab) -> Run:
    """Run a program in a sandbox of its own."""
    return lab.run


@pytest.fixture
async def cell(lab: Lab) -> AsyncIterator[Run]:
    """Run programs one after another in one session."""
    connection = uuid4().hex
    yield partial(lab.run, connection=connection)
    await lab.manager.close_connection(connection)


@pytest.fixture(scope="package")
async def probe(lab: Lab) -> AsyncIterator[Run]:
    """Run harmless questions in one sandbox that all tests share."""
    yield partial(lab.run, connection="probe")
    await lab.manager.close_connection("probe")


@pytest.fixture
def mark() -> str:
    """A name for a process by which the host finds it again, and nothing else."""
    return f"h{uuid4().hex[:12]}"


@pytest.fixture
async def place(lab: Lab) -> AsyncIterator[Place]:
    connection = uuid4().hex

    async def do(operation: FileOperation) -> FileResult:
        with anyio.fail_after(60):
            return (await lab.manager.files(operation, caller=Caller(connection=connection))).result

    yield Place(partial(lab.run, connection=connection), do, connection)
    await lab.manager.close_connection(connection)


@pytest.fixture
async def station(lab: Lab) -> AsyncIterator[Station]:
    """A session with background processes."""
    async with open_station(lab) as station:
        yield station


@pytest.fixture(scope="module")
async def with_egress(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Egress]:
    async with open_egress(tmp_path_factory.mktemp("egress")) as egress:
        yield egress


@pytest.fixture
def egress(with_egress: Egress) -> Egress:
    """With no rules, names or records left of the test before."""
    with_egress.world.clear()
    return with_egress
