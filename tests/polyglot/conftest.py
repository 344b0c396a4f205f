"""One manager on the real engine, for the languages of the image `polyglot` as its policy grants them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.docker.images import open_images
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.manager import Manager
from sandbox_server.images.build import build
from sandbox_server.images.recipes import tag_of
from sandbox_server.policy.loader import load_policy
from sandbox_server.shipped import shipped
from tests.hostile.conftest import Run
from tests.hostile.lab import Lab


@pytest.fixture(scope="package")
async def lab(anyio_backend: str) -> AsyncIterator[Lab]:
    async with open_images() as images:
        await build(images, ["polyglot"], report=lambda _: None)
    policy = load_policy(shipped("policies") / "polyglot.yaml")
    grants = {name: grant for name, grant in policy.grants.items() if grant.profile.image == "polyglot"}
    instance = f"polyglot{uuid4().hex[:12]}"
    engine = DockerEngine(Owner(instance, uuid4().hex), tag_of)
    await engine.probe()
    async with Manager(engine, grants, Sizing(warm=1)) as manager:
        yield Lab(manager, instance)


@pytest.fixture
def run(lab: Lab) -> Run:
    """Run a program in a sandbox of its own."""
    return lab.run
