from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from docker import APIClient
from docker.errors import APIError

from tests.cgroups import remove_groups

POLICY = """
schema: sandbox-policy/v1
roles:
  basic:
    code:
      defaults: {wall: 20s}
      languages: {python: {}}
deployment: {warm: 1, sandboxes: 4}
"""


@dataclass
class Deployment:
    """A state directory of its own and, of the sandboxes that carry its id, a view from outside."""

    state: Path
    policy: Path
    docker: APIClient
    env: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SANDBOX_SERVER_")}
        return {
            **inherited,
            "SANDBOX_SERVER_STATE_DIR": str(self.state),
            "SANDBOX_SERVER_POLICY": str(self.policy),
            **self.env,
        }

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "sandbox_server", *args]

    def run(self, *args: str, input: str | bytes = "", **env: str) -> subprocess.CompletedProcess[str]:
        """A command to its end. Output is text; invalid UTF-8 would fail the test."""
        raw = input.encode() if isinstance(input, str) else input
        done = subprocess.run(
            self.command(*args), input=raw, capture_output=True, env={**self.environ, **env}, timeout=60
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def instances(self) -> list[str]:
        return [path.read_text().strip() for path in self.state.glob("instance-*")]

    def containers(self) -> set[str]:
        """Ids of every container that a server of this deployment has made and that still exists."""
        return {
            found["Id"]
            for instance in self.instances()
            for found in self.docker.containers(all=True, filters={"label": f"sbx.instance={instance}"})
        }

    async def until_containers(self, count: int) -> set[str]:
        await until(lambda: len(self.containers()) == count)
        return self.containers()


async def until(holds: Callable[[], bool]) -> None:
    """Waits for the outside world, which sends no event: the caller puts a time-out around it."""
    while not await anyio.to_thread.run_sync(holds):  # noqa: ASYNC110
        await anyio.sleep(0.05)


def _remove_all(made: Deployment) -> None:
    """A server that was killed may have asked for a removal that still goes on: the engine then refuses
    another one, and what counts is that nothing is left."""
    deadline = time.monotonic() + 20
    while left := made.containers():
        assert time.monotonic() < deadline, f"containers of the test can't be removed: {left}"
        for container in left:
            with suppress(APIError):
                made.docker.remove_container(container, force=True)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    docker = APIClient(os.environ.get("DOCKER_HOST"), version="auto")
    made = Deployment(tmp_path / "state", policy, docker)
    yield made
    _remove_all(made)
    docker.close()
    for instance in made.instances():
        remove_groups(instance)
