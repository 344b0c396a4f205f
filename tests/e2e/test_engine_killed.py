"""The engine dies under a run. It is a private one: nobody's own is ever touched."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from anyio.to_thread import run_sync

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import EngineUnavailable, SandboxLost
from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Output, RunEvent, RunLimits, RunRequest, RunResult
from sandbox_server.images.recipes import tag_of

# docker-py leaves the socket of an attempt to connect open if nobody listens, for the collector to find.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*socket.socket.*:Warning")]

SCRIPT = Path(__file__).parents[2] / "scripts" / "gvisor-engine.sh"
ENDS_WITHIN = 5.0
BASE = Grant(LANGUAGES["python"], Profile("base"), RunLimits(wall=60), RunLimits(wall=60))


class PrivateEngine:
    """A Docker Engine of this test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def start(self) -> str:
        """Its address."""
        done = await self._script("start", tag_of("base"))
        return done.stdout.decode().strip()

    async def stop(self) -> None:
        await self._script("stop")

    async def _script(self, action: str, *images: str) -> subprocess.CompletedProcess[bytes]:
        command = ["bash", str(SCRIPT), action, str(self._directory), *images]
        return await anyio.run_process(command, env={**os.environ, "VENV": sys.prefix})

    def kill(self) -> None:
        os.kill(int((self._directory / "docker.pid").read_text()), signal.SIGKILL)


@asynccontextmanager
async def private_engine() -> AsyncIterator[PrivateEngine]:
    # Short, for it holds sockets, and where the host keeps its containers: not in a tmpfs.
    directory = Path(tempfile.mkdtemp(prefix="sbx-", dir="/var/lib"))
    engine = PrivateEngine(directory)
    try:
        yield engine
    finally:
        with anyio.CancelScope(shield=True):
            await engine.stop()
            await run_sync(_remove, directory)


def _remove(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(directory, ignore_errors=True)


async def run(manager: Manager, code: str, on_event: OnEvent = lambda _: None) -> RunResult:
    request = RunRequest("python", code, limits=RunLimits(wall=60))
    return await manager.run(request, caller=Caller(), on_event=on_event)


async def test_a_run_whose_engine_is_killed_is_lost_and_the_server_comes_back_with_it() -> None:
    """Number 80 of the threat list: what may have run is said, and not run again."""
    async with private_engine() as private:
        with anyio.fail_after(120):
            address = await private.start()
        instance = f"test-{uuid4().hex[:12]}"
        engine = DockerEngine(Owner(instance, uuid4().hex), tag_of, base_url=address)
        async with Manager(engine, {"python": BASE}, Sizing(warm=0, sandboxes=4)) as manager:
            killed = 0.0

            def kill(event: RunEvent) -> None:
                nonlocal killed
                if isinstance(event, Output):
                    killed = time.monotonic()
                    private.kill()

            with anyio.fail_after(60), pytest.raises(SandboxLost) as caught:
                await run(manager, "import time; print(1, flush=True); time.sleep(50)", kill)
            assert time.monotonic() - killed < ENDS_WITHIN
            assert "may have run" in caught.value.hint
            assert not caught.value.retry_safe
            with anyio.fail_after(ENDS_WITHIN), pytest.raises(EngineUnavailable):
                await run(manager, "print(1)")
            with anyio.fail_after(90):
                await private.start()
                assert (await first_that_works(manager)).stdout.text == "alive\n"
                while (await manager.health())["sandboxes"]:  # noqa: ASYNC110 - the engine tells nobody
                    await anyio.sleep(0.1)
        second = DockerEngine(Owner(instance, "another boot"), tag_of, base_url=address)
        assert await second.sweep() == 0
        await second.aclose()
    gc.collect()  # while that is ignored


async def first_that_works(manager: Manager) -> RunResult:
    while True:
        try:
            return await run(manager, "print('alive')")
        except EngineUnavailable:
            await anyio.sleep(0.2)
