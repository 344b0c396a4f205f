"""A door to the real engine that can be shut: for what happens when an engine goes away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import ByteStream, Listener

ENGINE = "/var/run/docker.sock"


@asynccontextmanager
async def relay(
    listener: Listener[ByteStream], tamper: tuple[bytes, bytes] = (b"", b"")
) -> AsyncIterator[None]:
    """Pass every connection through to the engine; shut all of them on leaving.

    `tamper`: in what the engine says, replace the first by the second, of the same length.
    """

    async def pass_through(client: ByteStream) -> None:
        async with client, await anyio.connect_unix(ENGINE) as engine, anyio.create_task_group() as tasks:
            tasks.start_soon(_copy, client, engine)
            await _copy(engine, client, tamper)
            tasks.cancel_scope.cancel()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, pass_through)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def relay_socket(path: Path, tamper: tuple[bytes, bytes] = (b"", b"")) -> AsyncIterator[None]:
    """The same at a unix socket, which is gone on leaving."""
    try:
        async with relay(await anyio.create_unix_listener(path), tamper):
            yield
    finally:
        path.unlink(missing_ok=True)


async def _copy(source: ByteStream, sink: ByteStream, tamper: tuple[bytes, bytes] = (b"", b"")) -> None:
    try:
        async for data in source:
            await sink.send(data.replace(*tamper) if tamper[0] else data)
        await sink.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return
