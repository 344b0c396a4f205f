"""A real manager whose sandboxes have a way out, to servers of the test's own on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import anyio

from sandbox_server.access.egress.trust import sandbox_bundle
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.docker.images import open_images
from sandbox_server.engines.profile import SandboxLimits
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunLimits
from sandbox_server.images.build import build
from sandbox_server.images.recipes import DEFAULT, tag_of
from tests.access.egress.world import World
from tests.hostile.lab import Lab, grants

PROFILE = "web"
PACKAGES = ("demo-*", "@scope/*")


@dataclass
class Egress:
    lab: Lab
    world: World


@asynccontextmanager
async def open_egress(directory: Path, sizing: Sizing | None = None) -> AsyncIterator[Egress]:
    async with open_images() as images:
        await build(images, DEFAULT, report=lambda _: None)
    instance = f"egress{uuid4().hex[:12]}"
    engine = DockerEngine(Owner(instance, uuid4().hex), tag_of)
    await engine.probe()
    async with anyio.create_task_group() as tasks:
        world = World(tasks, directory)
        world.gateway.trust = sandbox_bundle(world.public.pem, world.authority)
        out = {
            name: replace(grant, egress=PROFILE, ceiling=RunLimits(wall=60), packages=PACKAGES)
            for name, grant in grants().items()
            if name in ("python", "bash", "javascript")
        }
        inside = {f"{name}-inside": grants()[name] for name in ("python", "javascript")}
        few = replace(grants()["python"].profile, limits=SandboxLimits(open_files=120))
        out["python-few"] = replace(out["python"], profile=few)
        async with Manager(engine, out | inside, sizing or Sizing(warm=1), egress=world.gateway) as manager:
            lab = Lab(manager, instance)
            yield Egress(lab, world)
        tasks.cancel_scope.cancel()
    for listener in world.listeners:
        await listener.aclose()
    for group in lab.groups():
        group.rmdir()
