"""The server of the demo: a process of its own on a free port of the loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import anyio
from anyio.abc import Process

from demo.sales import Sales
from demo.shop import make_shop
from sandbox_server.audit.verify import Proof, verify
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.images.recipes import tag_of

POLICY = Path(__file__).parent / "policy.yaml"
START_SECONDS = 30.0
STOP_SECONDS = 60.0


class NoServer(Exception):
    """The server did not start; the text says what it said."""


@dataclass
class Running:
    """A server that listens at `url`. `instance` is what its containers are labelled with."""

    url: str
    instance: str
    state: Path

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    async def containers_left(self) -> int:
        """How many containers the server left; they are removed. Only once it has stopped."""
        engine = DockerEngine(Owner(self.instance, "demo"), tag_of)
        try:
            left = await engine.sweep()
        finally:
            await engine.aclose()
        _forget_cgroup(self.instance)
        return left

    def decisions(self) -> Proof:
        """What the decision log proves."""
        return verify((self.state / "decisions").iterdir())


@asynccontextmanager
async def running_server(log: Path, state: Path, sales: Sales) -> AsyncIterator[Running]:
    """The real server with the policy of the demo, stopped in order at the end. Raises NoServer."""
    with log.open("wb") as out:
        command = [sys.executable, "-m", "sandbox_server", "serve", "--transport", "http", "--port", "0"]
        command += ["--no-auth", "--state-dir", str(state), "--instance", "demo", "--policy", str(POLICY)]
        shop = state / "shop.db"
        make_shop(sales, shop)
        environ = {**os.environ, "SANDBOX_SECRET_SHOP_DSN": f"sqlite:///{shop}"}
        # A session of its own: Ctrl-C reaches only us, and we stop it.
        process = await anyio.open_process(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            url = await _listening(process, log)
            instance = await anyio.Path(state, "instance-demo").read_text()
            yield Running(url, instance.strip(), state)
        finally:
            with anyio.CancelScope(shield=True):
                await _stop(process)


async def _listening(process: Process, log: Path) -> str:
    """The URL that the server says, in its log, that it listens at."""
    with log.open("rb") as lines, anyio.move_on_after(START_SECONDS):
        while process.returncode is None:
            for url in _urls(lines):
                return url
            await anyio.sleep(0.05)
    raise NoServer((await anyio.Path(log).read_text(errors="replace"))[-3000:])


def _urls(lines: IO[bytes]) -> list[str]:
    urls = []
    for line in lines.readlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("event") == "listening":
            urls.append(str(entry["url"]))
    return urls


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    with anyio.move_on_after(STOP_SECONDS):
        await process.wait()
        return
    process.kill()
    await process.wait()


def _forget_cgroup(instance: str) -> None:
    # The engine makes an instance's control group and never removes it; this instance is gone for good.
    for group in Path("/sys/fs/cgroup").glob(f"**/sbx-{instance}"):
        try:
            group.rmdir()
        except OSError:
            continue  # not ours to remove, as a user who is not root
