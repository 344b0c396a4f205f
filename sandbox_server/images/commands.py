"""Host commands that image builds need, run as argument lists with their output streamed by line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream

_TAIL = 25


@dataclass(frozen=True, slots=True)
class Ended:
    """`tail`: the last lines of both streams, for an error message."""

    exit_code: int
    tail: str


async def run(
    command: Sequence[str], *, log: Callable[[str], None], env: Mapping[str, str] | None = None
) -> Ended:
    """Run to the end and log every line of stdout and stderr. Cancelling ends the command.

    Raises FileNotFoundError if there is no such program.
    """
    process = await anyio.open_process(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )
    try:
        tail = await _read(process.stdout, log) if process.stdout else []
        return Ended(exit_code=await process.wait(), tail="\n".join(tail))
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _read(stream: ByteReceiveStream, log: Callable[[str], None]) -> list[str]:
    tail: list[str] = []
    rest = ""
    async for text in TextReceiveStream(stream, errors="replace"):
        *lines, rest = (rest + text).split("\n")
        for line in filter(str.strip, lines):
            tail = [*tail[1 - _TAIL :], line]
            log(line)
    return [*tail, rest] if rest.strip() else tail


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(5):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.aclose()
