"""Lines over real pipes and files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sandbox_server.transports.lines import LineTooLong, read_lines, write_all


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


async def lines(fd: int, limit: int = 100) -> list[bytes | None]:
    with anyio.fail_after(5):
        return [None if isinstance(line, LineTooLong) else line async for line in read_lines(fd, limit=limit)]


async def feed(writer: int, *chunks: bytes) -> None:
    for chunk in chunks:
        await write_all(writer, chunk)
        await anyio.lowlevel.checkpoint()
    os.close(writer)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a", b"b\n", b"c"], [b"ab", b"c"]),
        ([b"\n \n\r\na\r\n"], [b"a\r"]),
        ([b"x" * 101 + b"\nb\n"], [None, b"b"]),
        ([b"x" * 60, b"x" * 60, b"x" * 60 + b"\nb\n"], [None, b"b"]),
        ([b"x" * 100 + b"\n"], [b"x" * 100]),
        ([b"x" * 200], []),
        ([], []),
    ],
)
async def test_lines_come_out_as_they_went_in(
    pipe: tuple[int, int], chunks: list[bytes], expected: list[bytes | None]
) -> None:
    reader, writer = pipe
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, writer, *chunks)
        assert await lines(reader) == expected


async def test_a_megabyte_passes_a_pipe_that_holds_64_kilobytes(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    data = os.urandom(500_000).hex().encode()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, writer, data, b"\n")
        assert await lines(reader, limit=2_000_000) == [data]


async def test_waiting_for_a_line_can_be_cancelled(pipe: tuple[int, int]) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lines, pipe[0])
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


async def test_waiting_for_room_can_be_cancelled(pipe: tuple[int, int]) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_all, pipe[1], bytes(1_000_000))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


async def test_writing_to_nobody_is_a_broken_stream(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    with pytest.raises(anyio.BrokenResourceError):
        await write_all(writer, b"x")


async def test_regular_files_and_the_null_device_work_as_well(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\nb\n")
    with path.open("rb") as file:
        assert await lines(file.fileno()) == [b"a", b"b"]
    with Path(os.devnull).open("r+b") as null:
        assert await lines(null.fileno()) == []
        await write_all(null.fileno(), b"x")
