"""A large file into and out of a sandbox, through the server's own end of the wire, beside the raw stream."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

import anyio
from anyio.to_thread import run_sync

from bench.context import Bench
from bench.raw import LARGE
from bench.report import Row
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.execution.file_models import ReadFile, WriteFile
from sandbox_server.execution.files import Files
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.images.recipes import tag_of

LIMITS = SandboxLimits(memory=512 * MIB, workspace=256 * MIB, file_size=256 * MIB)
_PIECE = bytes(range(256)) * (LARGE // 100 // 256) + bytes(LARGE // 100 % 256)


async def measure(bench: Bench) -> None:
    bench.say("a 100 MB file into and out of a session")
    # Best of each: what else the machine does slows one of them down, not always the same.
    trips = bench.times(5, 3)
    ups, downs, ins, outs = [], [], [], []
    for _ in range(trips):
        _, up, down = await run_sync(bench.raw.stream, 1)
        into, out = await _there_and_back(bench.raw.instance)
        for times, taken in ((ups, up), (downs, down), (ins, into), (outs, out)):
            times.append(taken)
    for name, taken, raw in (("into", min(ins), min(ups)), ("out of", min(outs), min(downs))):
        bench.rows.append(
            Row(
                f"a 100 MB file {name} a session",
                "MB/s",
                LARGE / taken / 1e6,
                samples=trips,
                target=">= 0.5x the raw attached stream",
                ratio=raw / taken,
                bound=0.5,
                at_most=False,
            )
        )


async def _there_and_back(instance: str) -> tuple[float, float]:
    """Seconds for a file of `LARGE` bytes in, and out again; raises if it is not the same."""
    engine = DockerEngine(Owner(instance, "files"), tag_of)
    await engine.probe()
    profile = Profile("python", LIMITS)
    sandbox = Sandbox(await engine.start(profile, deadline=time.time() + 600), profile)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sandbox.pump)
            await sandbox.greet()
            taken = await _transfer(Files(sandbox))
            tasks.cancel_scope.cancel()
        return taken
    finally:
        await sandbox.destroy()
        await engine.aclose()


async def _transfer(files: Files) -> tuple[float, float]:
    received: list[bytes] = []

    async def take(data: bytes) -> None:
        received.append(data)

    begin = time.perf_counter()
    await files.write_from(WriteFile("large", b""), _source())
    into = time.perf_counter() - begin
    begin = time.perf_counter()
    await files.read_into(ReadFile("large", length=LARGE), take)
    out = time.perf_counter() - begin
    if hashlib.sha256(b"".join(received)).digest() != hashlib.sha256(_PIECE * 100).digest():
        raise RuntimeError("the file came back changed")
    return into, out


async def _source() -> AsyncIterator[bytes]:
    for _ in range(100):
        yield _PIECE
