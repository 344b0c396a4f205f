"""Managers and sandboxes on the fake engine, for the tests of this directory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from sandbox_server.engines.fake import FakeContainer, FakeEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import SandboxServerError
from sandbox_server.execution.api import ANONYMOUS, Caller
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.jobs import Job
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import InputFile, RunEvent, RunLimits, RunRequest, RunResult
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.sandbox import Sandbox

SMALL = SandboxLimits(memory=100 * MIB)
PYTHON = Profile("python", SMALL)
NODE = Profile("node", SMALL)
SHELL = Profile("shell", SMALL)
BIG = Profile("base", SandboxLimits(memory=300 * MIB))
DEFAULTS = RunLimits(output_total=MIB)
GRANTS = {
    "python": Grant(LANGUAGES["python"], PYTHON, DEFAULTS),
    "javascript": Grant(LANGUAGES["javascript"], NODE, DEFAULTS),
    "bash": Grant(LANGUAGES["bash"], SHELL, DEFAULTS),
}
SIZING = Sizing(
    warm=0,
    sandboxes=8,
    memory=1000 * MIB,
    parallel_starts=2,
    queue=16,
    queue_wait=5,
    sessions=4,
    reap_every=3600,
)


@asynccontextmanager
async def managed(
    engine: FakeEngine,
    *,
    reuse: bool = False,
    files_out: int | None = None,
    egress: str | None = None,
    **sizing: Any,
) -> AsyncIterator[Manager]:
    """A manager whose pools have settled. `reuse`, `files_out`, `egress`: as its policy grants them."""
    grants = {
        name: replace(grant, reuse=reuse, files_out=files_out, egress=egress)
        for name, grant in GRANTS.items()
    }
    async with Manager(engine, grants, replace(SIZING, **sizing)) as manager:
        await anyio.wait_all_tasks_blocked()
        yield manager


def request(
    code: str,
    language: str = "python",
    *,
    files: tuple[InputFile, ...] = (),
    stdin: bytes = b"",
    args: tuple[str, ...] = (),
    **limits: Any,
) -> RunRequest:
    return RunRequest(language, code, args, stdin, files, RunLimits(**limits))


def ignore(event: RunEvent) -> None:
    """A caller that listens to nothing."""


async def run(
    manager: Manager,
    code: str,
    language: str = "python",
    *,
    on: str | None = None,
    principal: str = ANONYMOUS,
    session: str | None = None,
    reuse: bool = False,
    **changes: Any,
) -> RunResult:
    asked = replace(request(code, language, **changes), reuse=reuse)
    return await manager.run(asked, caller=Caller(principal, on), on_event=ignore, session=session)


@asynccontextmanager
async def opened(container: Any, profile: Profile = PYTHON) -> AsyncIterator[Sandbox]:
    """A sandbox on `container` whose runner is ready."""
    sandbox = Sandbox(container, profile)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.pump)
        await sandbox.greet()
        yield sandbox
        tasks.cancel_scope.cancel()


async def start(engine: FakeEngine) -> FakeContainer:
    return await engine.start(PYTHON, deadline=time.time() + 600)


@asynccontextmanager
async def pooled(
    engine: FakeEngine, profiles: tuple[Profile, ...] = (PYTHON,), **changes: Any
) -> AsyncIterator[Pools]:
    """Pools that have settled. What `Sizing` knows goes there, the rest to `Pools`."""
    known = {name: changes.pop(name) for name in list(changes) if hasattr(SIZING, name)}
    pools = Pools(engine, profiles, replace(SIZING, **known), **changes)
    async with anyio.create_task_group() as tasks:
        pools.start(tasks)
        await anyio.wait_all_tasks_blocked()
        yield pools
        pools.stop()
        tasks.cancel_scope.cancel()


def silent(position: int) -> None:
    """A caller that does not ask where it stands."""


async def take(pools: Pools, profile: Profile = PYTHON, principal: str = "p") -> Sandbox:
    return (await pools.acquire(profile, principal, silent)).sandbox


def container_of(sandbox: Sandbox) -> FakeContainer:
    assert isinstance(sandbox.container, FakeContainer)
    return sandbox.container


def job(code: str, **changes: Any) -> Job:
    facts: dict[str, Any] = {
        "mode": "fork",
        "file": "main.py",
        "argv": (),
        "args": (),
        "stdin": b"",
        "keep": False,
        "wall": 5.0,
        "cpu": None,
    }
    return Job(code=code, **facts | changes)


def capture(output: int = MIB, total: int = 64 * MIB, displays: int = MIB) -> RunCapture:
    return RunCapture(output, total, displays)


async def nothing_left(manager: Manager, engine: FakeEngine) -> bool:
    """Neither containers nor places nor sessions, once all is quiet."""
    await anyio.wait_all_tasks_blocked()
    health = await manager.health()
    left = [health[name] for name in ("sandboxes", "waiting", "sessions")]
    return left == [0, 0, 0] and engine.live == 0 and not engine.host.containers


def told(result: RunResult) -> tuple[str, str]:
    return result.outcome, result.session.state


async def say(container: Any, frame: bytes) -> None:
    """Let the runner say `frame` once all is quiet."""
    await anyio.wait_all_tasks_blocked()
    container.runner.sent += frame
    container.stream.wake()


class Callers:
    """Calls that wait side by side; `served` in the order in which they were."""

    def __init__(self, pools: Pools, tasks: anyio.abc.TaskGroup) -> None:
        self._pools = pools
        self._tasks = tasks
        self.served: list[str] = []
        self.sandboxes: list[Sandbox] = []
        self.errors: list[Exception] = []
        self.positions: dict[str, list[int]] = {}

    async def call(self, principal: str, profile: Profile = PYTHON) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        self._tasks.start_soon(self._call, principal, profile, scope)
        await anyio.wait_all_tasks_blocked()
        return scope

    async def _call(self, principal: str, profile: Profile, scope: anyio.CancelScope) -> None:
        tell = self.positions.setdefault(principal, []).append
        with scope:
            try:
                sandbox = (await self._pools.acquire(profile, principal, tell)).sandbox
            except SandboxServerError as error:
                self.errors.append(error)
            else:
                self.served.append(principal)
                self.sandboxes.append(sandbox)
