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
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import InputFile, RunEvent, RunLimits, RunRequest, RunResult
from sandbox_server.execution.sandbox import Sandbox

SMALL = SandboxLimits(memory=100 * MIB)
PYTHON = Profile("python", SMALL)
NODE = Profile("node", SMALL)
SHELL = Profile("shell", SMALL)
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
async def managed(engine: FakeEngine, **sizing: Any) -> AsyncIterator[Manager]:
    """A manager whose pools have settled."""
    async with Manager(engine, GRANTS, replace(SIZING, **sizing)) as manager:
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
    manager: Manager, code: str, language: str = "python", *, on: str | None = None, **changes: Any
) -> RunResult:
    return await manager.run(request(code, language, **changes), connection=on, on_event=ignore)


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
