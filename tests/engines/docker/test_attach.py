"""The attached stream: no byte lost, none invented."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream, UNIXSocketStream
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.engines.docker.attach import HEADER, AttachStream, attach
from sandbox_server.errors import EngineUnavailable

UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def piece(kind: int, data: bytes) -> bytes:
    return HEADER.pack(kind, len(data)) + data


async def sized(stream: AttachStream, size: int) -> AsyncIterator[bytes]:
    """Read to the end in chunks of at most `size`."""
    while True:
        try:
            data = await stream.receive(size)
        except anyio.EndOfStream:
            return
        assert 0 < len(data) <= size
        yield data


pieces = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12)


@given(
    pieces=pieces, cuts=st.lists(st.integers(min_value=1, max_value=30), max_size=30), size=st.integers(1, 50)
)
def test_however_the_bytes_arrive_stdout_comes_out_whole_and_apart_from_stderr(
    pieces: list[tuple[int, bytes]], cuts: list[int], size: int
) -> None:
    wire = b"".join(piece(kind, data) for kind, data in pieces)
    chunks = []
    for cut in cuts:
        chunks.append(wire[:cut])
        wire = wire[cut:]
    chunks.append(wire)

    async def scenario() -> tuple[bytes, str]:
        ours, theirs = socket.socketpair()
        stream = AttachStream(await UNIXSocketStream.from_socket(ours), leftover=chunks[0])
        received = b""
        async with await UNIXSocketStream.from_socket(theirs) as engine, stream:
            for chunk in chunks[1:]:
                await engine.send(chunk)
            await engine.send_eof()
            async for data in sized(stream, size):
                received += data
            assert stream.ended
        return received, stream.diagnostics

    received, diagnostics = anyio.run(scenario)
    assert received == b"".join(data for kind, data in pieces if kind == 1)
    assert len(diagnostics) <= sum(len(data) for kind, data in pieces if kind == 2)


async def test_only_the_end_of_stderr_is_kept_and_made_printable() -> None:
    ours, theirs = socket.socketpair()
    async with AttachStream(await UNIXSocketStream.from_socket(ours)) as stream:
        async with await UNIXSocketStream.from_socket(theirs) as engine:
            await engine.send(piece(2, b"a" * 100_000) + piece(2, b"\x1b[2Jlast words\n") + piece(1, b"!"))
            assert await stream.receive() == b"!"
        assert stream.diagnostics.endswith("\ufffd[2Jlast words")
        assert len(stream.diagnostics) <= 4096


async def answer(path: Path, response: bytes) -> tuple[AttachStream, bytes]:
    """Attach to a server that answers with `response` in one piece; returns also the request."""
    request = b""

    async def serve(client: SocketStream) -> None:
        nonlocal request
        async with client:
            request = await client.receive()
            await client.send(response)

    refused: EngineUnavailable | None = None
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        try:
            stream = await attach(f"unix://{path}", "1.41", "c" * 64, timeout=5)
        except EngineUnavailable as error:  # not out of the task group: it would wrap it
            refused = error
        tasks.cancel_scope.cancel()
    if refused:
        raise refused
    return stream, request


async def test_bytes_that_come_with_the_response_head_are_not_lost(tmp_path: Path) -> None:
    stream, request = await answer(tmp_path / "s", UPGRADED + piece(1, b"early") + piece(1, b"bird")[:6])
    assert await stream.receive() == b"early"
    await stream.aclose()
    assert request.startswith(b"POST /v1.41/containers/cccc")
    assert b"Upgrade: tcp\r\n" in request


async def test_a_refusal_is_told_in_the_engines_words_without_host_paths(tmp_path: Path) -> None:
    body = b'{"message":"no such thing in /var/lib/docker/containers"}'
    with pytest.raises(EngineUnavailable, match="no such thing in <path>"):
        await answer(tmp_path / "s", b"HTTP/1.1 404 Not Found\r\n\r\n" + body)


@pytest.mark.parametrize("response", [b"", b"hello\r\n\r\n", b"x" * 40_000])
async def test_an_answer_that_makes_no_sense_is_an_engine_failure(tmp_path: Path, response: bytes) -> None:
    with pytest.raises(EngineUnavailable):
        await answer(tmp_path / "s", response)


async def test_an_engine_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async with await anyio.create_unix_listener(tmp_path / "s"):
        with anyio.fail_after(5), pytest.raises(EngineUnavailable, match="in time"):
            await attach(f"unix://{tmp_path}/s", "1.41", "c" * 64, timeout=0.05)


@pytest.mark.parametrize("data", [b"", HEADER.pack(1, 4) + b"data"], ids=["quiet", "data"])
async def test_closing_under_a_reader_is_no_error_in_the_event_loop(data: bytes) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    ours, theirs = socket.socketpair()
    stream = AttachStream(await UNIXSocketStream.from_socket(ours))
    try:
        with theirs, anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:

                async def read() -> None:
                    with suppress(anyio.ClosedResourceError, anyio.EndOfStream):
                        while True:
                            await stream.receive()

                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                theirs.send(data)
                # The loop now learns of the data in the very turn in which the stream is closed.
                await anyio.lowlevel.checkpoint()
                await anyio.aclose_forcefully(stream)
        assert errors == []
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
