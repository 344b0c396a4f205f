"""A real manager on the real engine, and the host's view of what runs in its sandboxes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psutil

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.docker.images import open_images
from sandbox_server.engines.profile import KIB, Profile, SandboxLimits
from sandbox_server.execution.api import ANONYMOUS, Caller
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES, Language
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import InputFile, Output, RunEvent, RunLimits, RunRequest, RunResult
from sandbox_server.images.build import build
from sandbox_server.images.recipes import DEFAULT, tag_of

LIMITS = SandboxLimits()
OVERSHOOT = 1.0
"""Seconds that a run may last beyond its limit."""
CPU_OVERSHOOT = 0.1
"""Seconds of CPU time that a run may burn beyond its limit."""
CPU_LIMIT = 0.4
"""Seconds of CPU time that the languages "python-cpu" and "bash-cpu" grant."""
SLACK = 20.0
"""Seconds after which a test whose run should have ended long ago fails instead of hanging."""
TROUBLE = re.compile(
    r"\bBUG\b|\bOops\b|general protection fault|kernel panic|KASAN|UBSAN|soft lockup|WARNING: CPU"
)

PREAMBLE = """
import ctypes, errno, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, function)(*arguments) != -1:
        return "allowed"
    return errno.errorcode[ctypes.get_errno()]
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
def rename(name):
    libc.prctl(15, name.encode(), 0, 0, 0)
"""
"""What most attacks in Python begin with: `call` and `attempt` answer "allowed" or an errno's name."""


def grants() -> dict[str, Grant]:
    """The shipped languages, bash beside Python in one image, and two with little CPU time."""
    languages = {name: language for name, language in LANGUAGES.items() if language.image in DEFAULT}
    profiles = {language.image: Profile(language.image, LIMITS) for language in languages.values()}
    granted = {name: Grant(language, profiles[language.image]) for name, language in languages.items()}
    granted["python-bash"] = Grant(LANGUAGES["bash"], profiles["python"])
    sh = Language("sh", "python", "spawn", "main.sh", ("/bin/bash", "{file}"))
    granted["sh"] = Grant(sh, profiles["python"])
    for name in ("python", "bash"):
        language = LANGUAGES[name]
        little = RunLimits(cpu=CPU_LIMIT)
        granted[f"{name}-cpu"] = Grant(language, profiles[language.image], defaults=little)
    return {name: replace(grant, reuse=True) for name, grant in granted.items()}


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process of a sandbox, as the host sees it."""

    pid: int
    name: str
    sandbox: str
    state: str


@dataclass
class Lab:
    manager: Manager
    instance: str
    charged: list[float] = field(default_factory=list)
    """CPU seconds that background processes have used."""

    async def run(
        self,
        code: str,
        language: str = "python",
        *,
        wall: float = 5.0,
        connection: str | None = None,
        stdin: bytes = b"",
        args: tuple[str, ...] = (),
        files: tuple[InputFile, ...] = (),
        output: int = 64 * KIB,
        bare: bool = False,
        reuse_for: str | None = None,
        on_output: Callable[[Output], None] = lambda _: None,
    ) -> RunResult:
        """Run code; in Python the helpers of `PREAMBLE` are there, unless it is `bare`. `connection` makes
        it a session's cell; `reuse_for`, a principal, a run that may take a sandbox of that one again."""
        if language in ("python", "python-cpu") and not bare:
            code = f"exec({PREAMBLE!r}, globals())\n{code}"

        def on_event(event: RunEvent) -> None:
            if isinstance(event, Output):
                on_output(event)

        limits = RunLimits(wall=wall, output=output)
        request = RunRequest(language, code, args, stdin, files, limits, reuse=reuse_for is not None)
        caller = Caller(reuse_for or ANONYMOUS, connection)
        with anyio.fail_after(wall + SLACK):
            return await self.manager.run(request, caller=caller, on_event=on_event)

    # --- from outside

    def processes(self) -> list[HostProcess]:
        """Everything that runs in this lab's sandboxes."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                group = re.search(
                    rf"/sbx-{self.instance}(?:\.slice)?/(?:docker-)?(\w+)", (process / "cgroup").read_text()
                )
                if group:
                    name = (process / "comm").read_text().strip()
                    state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                    found.append(HostProcess(int(process.name), name, group[1], state))
            except OSError:
                continue  # it has ended
        return found

    def named(self, name: str) -> list[HostProcess]:
        """Those of that name that are not dead yet."""
        return [process for process in self.processes() if process.name == name and process.state not in "ZX"]

    def groups(self) -> list[Path]:
        """The control groups that hold all sandboxes of this lab: one, or one for each controller."""
        return [
            group
            for star in ("", "*/")
            for group in Path("/sys/fs/cgroup").glob(f"{star}sbx-{self.instance}*")
        ]

    def memory(self) -> int:
        """Bytes that all sandboxes of this lab hold together."""
        files = [
            group / name for group in self.groups() for name in ("memory.current", "memory.usage_in_bytes")
        ]
        return max(int(file.read_text()) for file in files if file.exists())

    def holds(self, sandbox: str) -> bool:
        """Whether a sandbox, by the name that `HostProcess` gives it, exists."""
        return any(sandbox in path.name for group in self.groups() for path in group.iterdir())

    async def at_rest(self) -> None:
        """Wait until every sandbox that was used is gone, or clean and kept for its next run."""
        with anyio.fail_after(SLACK):
            while True:
                health = await self.manager.health()
                if health["sandboxes"] == health["warm"] + health["spare"] + health["sessions"]:
                    return
                await anyio.sleep(0.02)

    async def until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for something that happens in the background, such as a container's removal."""
        with anyio.fail_after(seconds):
            while not true():  # noqa: ASYNC110 - the host tells nobody
                await anyio.sleep(0.02)


class Heartbeat:
    """How long the server's event loop was away at most, in seconds."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.rss = self.first_rss = psutil.Process().memory_info().rss

    @property
    def growth(self) -> int:
        """Bytes that the server's resident memory has grown by at its peak."""
        return self.rss - self.first_rss

    @classmethod
    @asynccontextmanager
    async def watch(cls) -> AsyncIterator[Heartbeat]:
        heartbeat = cls()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heartbeat._beat)
            yield heartbeat
            tasks.cancel_scope.cancel()

    async def _beat(self) -> None:
        server = psutil.Process()
        while True:
            before = time.monotonic()
            await anyio.sleep(0.01)
            self.worst = max(self.worst, time.monotonic() - before - 0.01)
            self.rss = max(self.rss, server.memory_info().rss)


def kernel_log() -> list[str]:
    """The kernel's messages that are still in its buffer, oldest first. Needs root."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    lines = []
    try:
        while True:
            try:
                lines.append(os.read(fd, 8192).decode(errors="replace"))
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                continue  # overwritten while we read
    finally:
        os.close(fd)


async def on_time(
    run: Callable[..., Awaitable[RunResult]],
    code: str,
    language: str = "python",
    *,
    wall: float,
    **options: Any,
) -> RunResult:
    """Run a program that its wall limit has to end, and see that it does end it.

    How late it may be is the list's own number, a second: the 100 ms that we promise are a
    measurement on a machine that does nothing else (`make bench`), not a matter for a test.
    """
    result = await run(code, language, wall=wall, **options)
    assert (result.outcome, result.limit) == ("timeout", "wall")
    assert wall <= result.usage.wall <= wall + OVERSHOOT
    return result


def strict_grants() -> dict[str, Grant]:
    """The same with `seccomp: strict`."""
    return {
        name: replace(grant, profile=replace(grant.profile, seccomp="strict"))
        for name, grant in grants().items()
    }


@asynccontextmanager
async def open_lab(granted: dict[str, Grant] | None = None, *, warm: int = 2) -> AsyncIterator[Lab]:
    async with open_images() as images:
        await build(images, DEFAULT, report=lambda _: None)
    # A name of its own: other tests sweep theirs.
    instance = f"hostile{uuid4().hex[:12]}"
    engine = DockerEngine(Owner(instance, uuid4().hex), tag_of)
    await engine.probe()
    sizing = Sizing(warm=warm, sessions=32, sandboxes=40)
    charged: list[float] = []

    def used(principal: str, who: object, seconds: float) -> None:
        charged.append(seconds)

    async with Manager(engine, granted or grants(), sizing, used=used) as manager:
        lab = Lab(manager, instance, charged)
        yield lab
    for group in lab.groups():
        group.rmdir()
