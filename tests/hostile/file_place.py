"""A session, and file operations in it, for the hostile programs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from sandbox_server.errors import (
    InvalidRequest,
    NotFound,
    SandboxServerError,
)
from sandbox_server.execution.file_models import (
    Entry,
    FileContent,
    FileOperation,
    FileResult,
    ListFiles,
    Listing,
    ReadFile,
)
from sandbox_server.execution.models import RunResult

Run = Callable[..., Awaitable[RunResult]]
Do = Callable[[FileOperation], Awaitable[FileResult]]
QUICK = 5.0
"""Seconds that no refusal may take."""


@dataclass
class Place:
    """A session: programs and file operations in it."""

    run: Run
    do: Do
    connection: str

    async def read(self, path: str, **options: int) -> bytes:
        content = await self.do(ReadFile(path, **options))
        assert isinstance(content, FileContent)
        return content.data

    async def names(self, path: str = ".", **options: bool) -> list[str]:
        return [entry.path for entry in await self.entries(path, **options)]

    async def entries(self, path: str = ".", **options: bool) -> list[Entry]:
        found: list[Entry] = []
        cursor = None
        while True:
            page = await self.do(ListFiles(path, cursor=cursor, limit=1000, **options))
            assert isinstance(page, Listing)
            found += page.entries
            cursor = page.cursor
            if cursor is None:
                return found


async def refused(place: Place, operation: FileOperation) -> SandboxServerError:
    begin = time.monotonic()
    with pytest.raises(SandboxServerError) as caught:
        await place.do(operation)
    assert time.monotonic() - begin < QUICK
    assert isinstance(caught.value, InvalidRequest | NotFound)
    assert caught.value.message.isprintable()
    return caught.value
