"""Files of a session under attack: contents, uploads, sizes, a million names. Numbers: see README.md."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import (
    InvalidRequest,
    NotFound,
)
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.file_models import (
    MAX_READ,
    CopyFile,
    DeleteFile,
    Edit,
    EditFile,
    FileContent,
    ListFiles,
    Listing,
    Matches,
    MoveFile,
    ReadFile,
    SearchFiles,
    WriteFile,
    Written,
)
from sandbox_server.execution.files import Files
from sandbox_server.execution.jobs import Job
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.images.recipes import tag_of
from tests.hostile.file_place import Place, refused
from tests.hostile.lab import Lab

MOVING = {
    "grows": "while True:\n  file.write(b'line of text\\n' * 1000)\n"
    "  if file.tell() > 20_000_000: file.truncate(file.seek(1000))",
    "is cut": "while True:\n  file.truncate(0)\n  file.seek(0); file.write(b'line of text\\n' * 50_000)",
    "is replaced": "while True:\n  open('y', 'wb').write(b'line of text\\n' * 100); os.rename('y', 'x')",
}  # fmt: skip


@pytest.mark.parametrize("code", MOVING.values(), ids=MOVING)
async def test_a_file_that_changes_while_it_is_read_neither_hangs_nor_gives_more_than_asked(
    place: Place, code: str
) -> None:
    """47."""
    program = (
        f"file = open('x', 'wb', 0)\nfile.write(b'line of text\\n' * 1000)\nprint('go', flush=True)\n{code}"
    )
    started = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(place.run, program, wall=30, on_output=lambda _: started.set()))
        await started.wait()
        with anyio.fail_after(40):
            for _ in range(5):
                assert len(await place.read("x", length=300_000)) <= 300_000
                lines = await place.read("x", line=2, lines=3)
                assert lines.count(b"\n") <= 3
                found = await place.do(SearchFiles("x", "text", context=1, limit=10))
                assert isinstance(found, Matches)
                assert len(found.matches) <= 10
                await place.do(CopyFile("x", "copy", overwrite=True))
                with pytest.raises((InvalidRequest, NotFound)):
                    await place.do(EditFile("x", (Edit("not there", "b"),)))
        tasks.cancel_scope.cancel()


def archives() -> dict[str, bytes]:
    """Archives that would do harm where somebody unpacks them."""
    made = {}
    for kind, format in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            for name in ("../evil", "/etc/evil", "a", "a", "a/b", "long" * 80, "\udcff"):
                entry = tarfile.TarInfo(name)
                entry.size = 4
                tar.addfile(entry, io.BytesIO(b"evil"))
            for link, target in (("link", "/etc"), ("up", "../..")):
                entry = tarfile.TarInfo(link)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                tar.addfile(entry)
            hard = tarfile.TarInfo("hard")
            hard.type, hard.linkname = tarfile.LNKTYPE, "/etc/passwd"
            tar.addfile(hard)
        made[f"tar {kind}"] = buffer.getvalue()
    sizes = bytearray(made["tar gnu"])
    sizes[124:136] = b"\x80" + b"\xff" * 11
    made["tar with a negative size"] = bytes(sizes)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../evil", b"evil")
        archive.writestr("bomb", bytes(50 * MIB))
    made["zip bomb"] = buffer.getvalue()
    return made


@pytest.mark.parametrize("archive", archives().values(), ids=archives())
async def test_an_uploaded_archive_is_nothing_but_its_bytes(place: Place, archive: bytes) -> None:
    """48. Nobody on the host unpacks anything; what a program unpacks stays in its sandbox."""
    await place.do(WriteFile("up/archive", archive))
    assert await place.names(recursive=True) == ["up", "up/archive"]
    assert await place.read("up/archive", length=MIB) == archive
    unpack = """
import tarfile, zipfile
try: tarfile.open("up/archive").extractall("up/out", filter="fully_trusted")
except (tarfile.TarError, OSError, ValueError): pass
try: zipfile.ZipFile("up/archive").extractall("up/out")
except (zipfile.BadZipFile, OSError): pass
"""
    await place.run(unpack, wall=10)
    listed = await place.names(recursive=True)
    assert all(name.startswith(("up", "evil")) for name in listed)
    await place.do(DeleteFile("up", recursive=True))


async def test_uploads_that_contradict_each_other_are_refused(place: Place) -> None:
    """48."""
    await place.do(WriteFile("a", b"first"))
    await place.do(WriteFile("a", b"second"))
    assert await place.read("a") == b"second"
    await refused(place, WriteFile("a/b", b"x"))
    await place.do(WriteFile("d/x", b"x"))
    await refused(place, WriteFile("d", b"x"))
    await refused(place, MoveFile("d", "d/inside"))
    await refused(place, CopyFile("d", "d/inside", recursive=True))
    await refused(place, MoveFile("a", "d/x"))
    for at in (-1, 0, 5, 7, 1 << 70):
        await refused(place, WriteFile("a", b"x", at=at))
    assert await place.read("a") == b"second"
    for offset, length in ((-1, 1), (0, -1)):
        await refused(place, ReadFile("a", offset=offset, length=length))
    assert await place.read("a", offset=1 << 62) == b""


def forgotten(group: Path) -> bool:
    """Remove the control group of an instance; what was in it goes a moment after its container."""
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


@pytest.fixture
async def big(lab: Lab) -> AsyncIterator[Sandbox]:
    """A sandbox with room for 100 MB and for a million names."""
    limits = SandboxLimits(memory=1536 * MIB, workspace=400 * MIB, file_size=400 * MIB, inodes=1_100_000)
    profile = Profile("python", limits)
    # A name of its own: the lab sweeps what another boot of its instance has left.
    instance = f"hostile-{uuid4().hex[:12]}"
    engine = DockerEngine(Owner(instance, uuid4().hex), tag_of)
    await engine.probe()
    sandbox = Sandbox(await engine.start(profile, deadline=time.time() + 600), profile)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.pump)
        await sandbox.greet()
        yield sandbox
        tasks.cancel_scope.cancel()
    await sandbox.destroy()
    await engine.aclose()
    for group in Path("/sys/fs/cgroup").glob(f"**/sbx-{instance}"):
        await lab.until(partial(forgotten, group))


async def test_a_hundred_megabytes_go_in_and_out_unchanged(big: Sandbox) -> None:
    """48."""
    files = Files(big)
    block = bytes(range(256)) * 4096

    async def blocks() -> AsyncIterator[bytes]:
        for number in range(100):
            yield number.to_bytes(4, "big") + block[4:]

    written = await files.write_from(WriteFile("big", b""), blocks())
    assert written.size == 100 * MIB
    sent, received = hashlib.sha256(), hashlib.sha256()
    async for piece in blocks():
        sent.update(piece)

    async def take(data: bytes) -> None:
        received.update(data)

    report = await files.read_into(ReadFile("big", length=200 * MIB), take)
    assert report.size == 100 * MIB
    assert received.digest() == sent.digest()


async def test_a_hundred_megabytes_go_in_and_out_in_chunks(big: Sandbox) -> None:
    """48. As over MCP: `offset` makes a chunk that is sent again harmless."""
    files = Files(big)
    chunk, size = bytes(range(256)) * (MAX_READ // 256), 0
    while size < 100 * MIB:
        written = await files.perform(WriteFile("big", chunk, at=size))
        assert written == Written(size + len(chunk))
        with pytest.raises(InvalidRequest, match="nothing was appended"):
            await files.perform(WriteFile("big", chunk, at=size))
        size += len(chunk)
    for offset in range(0, size, MAX_READ):
        content = await files.perform(ReadFile("big", offset=offset, length=MAX_READ))
        assert isinstance(content, FileContent)
        assert (content.data == chunk, content.size) == (True, size)


async def test_a_reader_that_takes_its_time_holds_the_sandbox_back(big: Sandbox) -> None:
    """47."""
    files = Files(big)
    await files.perform(WriteFile("big", bytes(20 * MIB)))
    first, go_on = anyio.Event(), anyio.Event()
    received = 0

    async def take(data: bytes) -> None:
        nonlocal received
        first.set()
        await go_on.wait()
        received += len(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(files.read_into, ReadFile("big", length=20 * MIB), take)
        await first.wait()
        # Others get through meanwhile.
        for _ in range(3):
            assert (await files.perform(ReadFile("big", length=1000))).data == bytes(1000)  # type: ignore[union-attr]
        assert received == 0
        go_on.set()
    assert received == 20 * MIB


async def test_a_million_entries_are_listed_page_by_page(big: Sandbox) -> None:
    """49."""
    caught = RunCapture(MIB, MIB, MIB)
    code = """
import os
os.mkdir("d"); os.chdir("d"); os.close(os.open("x", os.O_CREAT))
for i in range(1_000_000): os.link("x", "\\x1b[31m%07d\\n" % i)
"""
    exit = await big.run(Job("fork", "main.py", (), code, (), b"", False, 60.0, None), caught)
    assert exit.report is not None
    assert exit.report.exit_code == 0, caught.finish("stderr").text
    files = Files(big)
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        with anyio.fail_after(15):
            page = await files.perform(ListFiles("d", cursor=cursor, limit=1000))
        assert isinstance(page, Listing)
        assert len(page.entries) == 1000
        assert all(entry.path.isprintable() and entry.escaped for entry in page.entries)
        seen += [entry.path for entry in page.entries]
        cursor = page.cursor
    assert seen == [f"\\x1b[31m{number:07}\\n" for number in range(3000)]
    with anyio.fail_after(15):
        page = await files.perform(ListFiles(".", recursive=True, glob="d/x", limit=10, cursor=None))
    assert isinstance(page, Listing)
    assert page.cursor is not None or [entry.path for entry in page.entries] == ["d/x"]
