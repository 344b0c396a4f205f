"""What a run gives, for a person or a program that reads it."""

from __future__ import annotations

import base64
import codecs
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import anyio
import anyio.to_thread
import typer

from sandbox_server.errors import SandboxServerError
from sandbox_server.execution.models import Output, Queued, RunEvent, RunResult, StreamName
from sandbox_server.observe.logs import visible

_SUFFIX: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/svg+xml": ".svg", "text/html": ".html"}


class Screen:
    """Shows output as it comes. A reader that stops reading stops only the writing: events are
    taken at once, because they come on the event loop that also keeps the time."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._send, self._receive = anyio.create_memory_object_stream[Output](math.inf)
        self._printers: dict[StreamName, _Printer] = {
            "stdout": _Printer(sys.stdout.buffer),
            "stderr": _Printer(sys.stderr.buffer),
        }
        self._tasks = anyio.create_task_group()

    async def __aenter__(self) -> Screen:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._write)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._send.close()
        return await self._tasks.__aexit__(kind, error, trace)

    def show(self, event: RunEvent) -> None:
        match event:
            case Output() if self._live:
                self._send.send_nowait(event)
            case Queued(position=position) if position > 1:
                note(f"waiting for a sandbox, {position} in the queue")

    async def _write(self) -> None:
        async for output in self._receive:
            printer = self._printers[output.stream]
            await anyio.to_thread.run_sync(printer.write, output.data, abandon_on_cancel=True)
        for printer in self._printers.values():
            await anyio.to_thread.run_sync(printer.finish, abandon_on_cancel=True)


class _Printer:
    """Bytes as they are for a file or a pipe; for a terminal, without what could drive it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if stream.isatty() else None

    def write(self, data: bytes) -> None:
        if self._decoder:
            data = _shown(self._decoder.decode(data))
        self._stream.write(data)
        self._stream.flush()

    def finish(self) -> None:
        if self._decoder:
            self._stream.write(_shown(self._decoder.decode(b"", final=True)))
            self._stream.flush()


def _shown(text: str) -> bytes:
    lines = (visible(line, keep_lines=True) for line in text.split("\t"))
    return "\t".join(lines).encode("utf-8", "replace")


def note(text: str) -> None:
    """A line of ours, on stderr: stdout is the program's alone."""
    if text:
        typer.echo(visible(text, keep_lines=True), err=True)


def save_displays(result: RunResult, directory: Path) -> tuple[Path, ...]:
    """Each display as a new file. Names are ours; nothing that exists is overwritten."""
    directory.mkdir(parents=True, exist_ok=True)
    return tuple(_save(directory, number, d.mime, d.data) for number, d in enumerate(result.displays, 1))


def _save(directory: Path, number: int, mime: str, data: bytes) -> Path:
    suffix = _SUFFIX.get(mime, ".txt" if mime.startswith("text/") else ".bin")
    for attempt in range(10_000):
        name = f"display-{number}{f'-{attempt}' if attempt else ''}{suffix}"
        try:
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return directory / name
    raise OSError(f"no free name for a display in {directory}")


def as_json(result: RunResult, saved: Iterable[Path] = ()) -> dict[str, Any]:
    """The whole result. Displays that were saved are named, others come as base64."""
    found = asdict(result)
    paths = list(saved)
    found["displays"] = [
        {"mime": display.mime, "bytes": len(display.data)}
        | ({"file": str(paths[n])} if paths else {"base64": base64.b64encode(display.data).decode()})
        for n, display in enumerate(result.displays)
    ]
    # Nothing can be read of a server that is gone.
    found["artifacts"] = [{"path": each.path, "size": each.size} for each in result.artifacts]
    for stream in ("stdout", "stderr"):
        del found[stream]["uri"], found[stream]["kept_bytes"]
    return found


def error_json(error: SandboxServerError) -> dict[str, Any]:
    """Our own failure, told apart from any result by its one key."""
    return {
        "failed": {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "retry_safe": error.retry_safe,
        }
    }
