"""What a run leaves behind, made readable for its caller: output beyond its bounds, files that it made."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from sandbox_server.errors import SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.execution.capture import Overflow, RunCapture
from sandbox_server.execution.jobs import Exit
from sandbox_server.execution.models import Artifact, RunResult, StreamName
from sandbox_server.execution.resources import read_file
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.spool import Spool
from sandbox_server.execution.store import Deposit, Store
from sandbox_server.execution.uris import file_uri, shown

KEEP_SECONDS = 5.0
"""How long a one-shot run's caller waits for its files to be fetched; those that came later are not kept."""
MOST_IMAGES = 4
LARGEST_IMAGE = 256 * 1024
_PIECE = 2 * 1024 * 1024
_IMAGE_NAMES = (".png", ".jpg", ".jpeg")
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def image_type(data: bytes) -> str | None:
    """The MIME type of a PNG or JPEG, by how it begins."""
    return next((mime for magic, mime in _MAGIC.items() if data.startswith(magic)), None)


@asynccontextmanager
async def leftovers(store: Store, caller: Caller) -> AsyncIterator[Leftovers]:
    """For one run. What it has left stays readable only if this is left without an exception."""
    async with store.deposit(caller.principal, caller.connection) as deposit:
        yield Leftovers(store, deposit)


@dataclass(frozen=True, slots=True)
class Leftovers:
    store: Store
    deposit: Deposit

    def overflow(self, stream: StreamName) -> Overflow:
        """Where `stream` goes once the caller doesn't want to see more of it."""
        return Spool(self.store, self.deposit, stream)

    async def keep_files(self, sandbox: Sandbox, exit: Exit) -> tuple[Artifact, ...]:
        """Fetch what a one-shot run has made before its sandbox goes: small files first, as many as there
        is room and time for."""
        if not sandbox.alive:
            return ()
        kept: dict[str, tuple[str, bytes | None]] = {}
        with anyio.move_on_after(KEEP_SECONDS):
            for path, size in sorted(_files(exit), key=lambda file: file[1]):
                if await self._keep(sandbox, path, size):
                    image = await self._image(path, size)
                    kept[path] = file_uri(self.deposit.id, path), image
        return _artifacts(exit, kept)

    async def _keep(self, sandbox: Sandbox, path: str, size: int) -> bool:
        """In pieces: the largest file must not be in our memory as a whole."""
        file = self.store.new_file(self.deposit, size)
        if file is None:
            return False
        while file.size < size:
            piece = await _fetch(sandbox, path, size, file.size, min(_PIECE, size - file.size))
            if not piece or not await file.append(piece):
                return False
        self.deposit.files[path] = file.blob
        return True

    async def _image(self, path: str, size: int) -> bytes | None:
        blob = self.deposit.files[path]
        return await self.store.read(blob, 0, size) if _may_be_shown(path, size) else None


async def session_files(sandbox: Sandbox | None, exit: Exit, session: str) -> tuple[Artifact, ...]:
    """Files stay where they are, in a session's sandbox; images small enough are fetched to be shown."""
    if sandbox is None or not sandbox.alive:
        return ()
    found: dict[str, tuple[str, bytes | None]] = {}
    images = 0
    deadline = time.monotonic() + KEEP_SECONDS
    for path, size in _files(exit):
        data = None
        if images < MOST_IMAGES and _may_be_shown(path, size) and time.monotonic() < deadline:
            data = await _fetch(sandbox, path, size, 0, size)
            images += data is not None
        found[path] = (file_uri(session, path), data)
    return _artifacts(exit, found)


async def with_leftovers(
    result: RunResult, capture: RunCapture, exit: Exit, artifacts: tuple[Artifact, ...]
) -> RunResult:
    """`result` with where the rest is."""
    stdout, stderr = await capture.finish_both()
    report = exit.report.artifacts if exit.report else None
    return replace(
        result,
        stdout=stdout,
        stderr=stderr,
        artifacts=artifacts,
        artifacts_omitted=report.omitted if report else 0,
        artifacts_complete=report.complete if report else True,
    )


def _files(exit: Exit) -> list[tuple[str, int]]:
    return sorted(exit.report.artifacts.files) if exit.report else []


def _may_be_shown(path: str, size: int) -> bool:
    return 0 < size <= LARGEST_IMAGE and path.lower().endswith(_IMAGE_NAMES)


async def _fetch(sandbox: Sandbox, path: str, size: int, offset: int, length: int) -> bytes | None:
    """A piece of a file; None if it is not there any more, or not as it was."""
    try:
        data, now = await read_file(sandbox, path, offset, length)
    except SandboxServerError:
        return None
    return data if len(data) == length and now == size else None


def _artifacts(exit: Exit, kept: dict[str, tuple[str, bytes | None]]) -> tuple[Artifact, ...]:
    artifacts = []
    images = 0
    for path, size in _files(exit):
        uri, data = kept.get(path, (None, None))
        image = data if data and images < MOST_IMAGES and image_type(data) else None
        images += image is not None
        artifacts.append(Artifact(shown(path), size, uri, image))
    return tuple(artifacts)
