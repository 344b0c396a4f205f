"""Files of a session under attack by the programs in it. Numbers: see README.md."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import anyio
import pytest

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import (
    Busy,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    SandboxServerError,
)
from sandbox_server.execution import files as files_module
from sandbox_server.execution.api import Caller
from sandbox_server.execution.capture import RunCapture
from sandbox_server.execution.file_models import (
    MAX_READ,
    CopyFile,
    CreateDirectory,
    DeleteFile,
    Edit,
    EditFile,
    Entry,
    FileContent,
    FileOperation,
    FileResult,
    Listing,
    ListFiles,
    Matches,
    MoveFile,
    ReadFile,
    SearchFiles,
    StatFile,
    WriteFile,
    Written,
)
from sandbox_server.execution.files import Files
from sandbox_server.execution.jobs import Job
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.images.recipes import tag_of
from tests.hostile.conftest import Run
from tests.hostile.lab import Lab

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


@pytest.fixture
async def place(lab: Lab) -> AsyncIterator[Place]:
    connection = uuid4().hex

    async def do(operation: FileOperation) -> FileResult:
        with anyio.fail_after(60):
            return (await lab.manager.files(operation, caller=Caller(connection=connection))).result

    yield Place(partial(lab.run, connection=connection), do, connection)
    await lab.manager.close_connection(connection)


async def refused(place: Place, operation: FileOperation) -> SandboxServerError:
    begin = time.monotonic()
    with pytest.raises(SandboxServerError) as caught:
        await place.do(operation)
    assert time.monotonic() - begin < QUICK
    assert isinstance(caught.value, InvalidRequest | NotFound)
    assert caught.value.message.isprintable()
    return caught.value


OUTSIDE = {
    "file": "/etc/passwd",
    "relative": "../etc/passwd",
    "magic root": "/proc/self/root/etc/passwd",
    "magic cwd": "/proc/self/cwd/../etc/passwd",
    "descriptor": "/proc/self/fd/3",
    "own memory": "/proc/self/mem",
    "environment": "/proc/self/environ",
    "runner": "/opt/sandbox/runner.py",
    "runner's memory": "/proc/1/mem",
    "neighbour by name": "/workspace_evil",
    "device": "/dev/zero",
}


@pytest.mark.parametrize("target", OUTSIDE.values(), ids=OUTSIDE)
async def test_a_link_leads_nowhere_but_into_the_sessions_own_directories(place: Place, target: str) -> None:
    """40, 41, 46."""
    made = await place.run(f"os.symlink({target!r}, 'out.txt')\nopen('own', 'w').write('own')")
    assert made.outcome == "ok"
    for operation in (
        ReadFile("out.txt"),
        ReadFile("out.txt", line=1),
        WriteFile("out.txt", b"x"),
        WriteFile("out.txt", b"x", append=True),
        EditFile("out.txt", (Edit("a", "b"),)),
        CopyFile("out.txt", "copy"),
        SearchFiles("out.txt", "root"),
        ListFiles("out.txt"),
        CreateDirectory("out.txt"),
    ):
        assert "leads out of" in (await refused(place, operation)).message, operation
    found = await place.do(SearchFiles(".", "root|own"))
    assert isinstance(found, Matches)
    assert [match.path for match in found.matches] == ["own"]
    link = await place.do(StatFile("out.txt"))
    assert isinstance(link, Entry)
    assert (link.type, link.target) == ("symlink", target)
    await place.do(MoveFile("out.txt", "moved"))
    await place.do(DeleteFile("moved", recursive=True))
    assert await place.names() == ["own"]


PARENTS = {
    "root": "/",
    "etc": "/etc",
    "magic": "/proc/self/root/etc",
    "sandbox": "/opt/sandbox",
    "proc": "/proc/1",
}


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS)
async def test_a_parent_that_is_a_link_leads_nowhere_either(place: Place, parent: str) -> None:
    """41."""
    await place.run(f"os.mkdir('a')\nos.symlink({parent!r}, 'a/link')")
    for operation in (
        ReadFile("a/link/passwd"),
        ListFiles("a/link", recursive=True),
        SearchFiles("a/link", "."),
        WriteFile("a/link/new/x", b"x"),
        StatFile("a/link/passwd"),
        DeleteFile("a/link/passwd"),
        MoveFile("a/link/passwd", "stolen"),
        CopyFile("a/link", "stolen", recursive=True),
        CreateDirectory("a/link/x"),
    ):
        assert "leads out of" in (await refused(place, operation)).message, operation
    assert await place.names(recursive=True) == ["a", "a/link"]


async def test_links_inside_are_followed(place: Place) -> None:
    """40."""
    await place.run(
        "os.makedirs('a/b')\nos.symlink('a/b', 'link')\nopen('/tmp/t', 'w').write('tmp')\n"
        "os.symlink('/tmp/t', 'to-tmp')\nos.symlink('loop', 'loop')"
    )
    await place.do(WriteFile("link/x", b"inside"))
    assert await place.read("a/b/x") == b"inside"
    assert await place.read("to-tmp") == await place.read("/tmp/t") == b"tmp"
    await refused(place, WriteFile("to-tmp", b"x"))
    await refused(place, WriteFile("/tmp/t", b"x"))
    await refused(place, ReadFile("loop"))


async def test_ten_thousand_looks_during_a_race_see_nothing_outside(place: Place) -> None:
    """42. The very code of file operations, as fast as it goes, against two threads that swap."""
    code = """
sys.path.insert(0, "/opt/sandbox")
sys.setswitchinterval(1e-5)
import _file_ops
os.makedirs("real"); open("real/f", "w").write("inside")
os.symlink("/etc", "evil"); open("f2", "w").write("inside"); os.symlink("/etc/passwd", "g2")
done = False
def swap():
    while not done:
        for source in "real", "evil":
            try: os.symlink(source, "new"); os.rename("new", "d")
            except OSError: pass
        for source in "f2", "g2":
            try: os.symlink(source, "new2"); os.rename("new2", "f")
            except OSError: pass
thread = threading.Thread(target=swap); thread.start()
seen = {"inside": 0, "refused": 0}
for i in range(10_000):
    try:
        fd, _ = _file_ops.open_regular("d/f" if i % 2 else "f")
        seen[os.read(fd, 99).decode()] = seen.get("inside", 0) + 1
        os.close(fd)
    except (OSError, ValueError):
        seen["refused"] += 1
done = True
thread.join()
print(sorted(seen), seen["inside"] > 100, seen["refused"] > 100)
"""
    result = await place.run(code, wall=30, bare=False)
    assert result.stdout.text == "['inside', 'refused'] True True\n", result.stderr.text


async def test_real_reads_during_a_race_see_nothing_outside(place: Place, lab: Lab) -> None:
    """42. And file operations themselves, while a program swaps."""
    swap = """
os.makedirs("real"); open("real/passwd", "w").write("inside")
print("go", flush=True)
end = time.monotonic() + 8
while time.monotonic() < end:
    for source in "real", "/etc":
        os.symlink(source, "new"); os.rename("new", "d")
"""
    answers: list[str] = []
    started = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(place.run, swap, wall=10, on_output=lambda _: started.set()))
        await started.wait()
        for _ in range(300):
            try:
                answers.append((await place.read("d/passwd")).decode())
            except (InvalidRequest, NotFound):
                answers.append("refused")
        tasks.cancel_scope.cancel()
    assert set(answers) <= {"inside", "refused"}


async def test_hard_links_reach_only_ones_own_files(place: Place) -> None:
    """43."""
    code = """
for path in "/etc/passwd", "/usr/bin/python3", "/proc/self/environ", "/dev/null":
    print(attempt(os.link, path, "/workspace/stolen"))
open("a", "w").write("old")
for i in range(1000): os.link("a", f"link{i}")
"""
    result = await place.run(code)
    assert set(result.stdout.text.split()) <= {"EXDEV", "EPERM", "EACCES", "EROFS"}
    await place.do(WriteFile("a", b"new"))
    assert await place.read("link7") == b"old"
    await place.do(WriteFile("link7", b"!", append=True))
    assert await place.read("link8") == b"old!"
    await place.do(DeleteFile("link7"))
    assert await place.read("link8") == b"old!"
    assert len(await place.names()) == 1000


SPECIALS = {
    "fifo": "os.mkfifo('x')",
    "fifo with a writer": "os.mkfifo('x')\nos.open('x', os.O_RDWR)\nif os.fork() == 0: time.sleep(9)",
    "socket": "import socket\nsocket.socket(socket.AF_UNIX).bind('x')",
    "link to a fifo": "os.mkfifo('y')\nos.symlink('y', 'x')",
    "directory": "os.mkdir('x')",
    "link to a terminal": "os.symlink('/dev/ptmx', 'x')",
}


@pytest.mark.parametrize("code", SPECIALS.values(), ids=SPECIALS)
async def test_what_is_no_regular_file_is_refused_without_waiting(place: Place, code: str) -> None:
    """44."""
    assert (await place.run(code)).outcome == "ok"
    for operation in (
        ReadFile("x"),
        ReadFile("x", line=1),
        WriteFile("x", b"new"),
        WriteFile("x", b"new", append=True),
        EditFile("x", (Edit("a", "b"),)),
        CopyFile("x", "copy"),
    ):
        await refused(place, operation)
    found = await place.do(SearchFiles(".", "."))
    assert isinstance(found, Matches)
    assert found.matches == ()
    await place.do(DeleteFile("x"))
    assert "x" not in await place.names()


BAD_PATHS = [
    "../x", "a/../../etc/passwd", "..", "a/..", "/etc/passwd", "//etc/passwd", "/workspace/../etc/passwd",
    "/workspace_evil/x", "/workspacex", "/tmpx", "/proc/self/root/etc/passwd", "/", "//", "a\0b", "\0", "a\nb", "a\x1b[2Jb",
    "a\u202eb", "a\u200bb", "a\u2066b", "\ufeffa", "\ud800", "x" * 256, "/".join(["d" * 200] * 21), "ä" * 128, "",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
async def test_a_path_that_tries_to_leave_is_refused_with_a_clear_error(place: Place, path: str) -> None:
    """45, 46."""
    for operation in (
        ReadFile(path),
        WriteFile(path, b"x"),
        ListFiles(path),
        DeleteFile(path, recursive=True),
        CreateDirectory(path),
        EditFile(path, (Edit("a", "b"),)),
        MoveFile(path, "x"),
        MoveFile("x", path),
        CopyFile(path, "x"),
        CopyFile("x", path),
        StatFile(path),
        SearchFiles(path, "."),
    ):
        error = await refused(place, operation)
        assert isinstance(error, InvalidRequest)
        assert error.hint


GOOD_PATHS = [
    "trailing ",
    "dot.",
    "...",
    "%2e%2e",
    "..%2fx",
    "..\\x",
    "~",
    "-rf",
    "*",
    "a//b",
    "./a/./c",
    "日本",
    "$(id)",
]


@pytest.mark.parametrize("path", GOOD_PATHS)
async def test_a_name_that_only_looks_odd_is_taken_as_it_is(place: Place, path: str) -> None:
    """45."""
    await place.do(WriteFile(path, b"x"))
    clean = "/".join(part for part in path.split("/") if part not in ("", "."))
    assert [name for name in await place.names(recursive=True) if name.endswith(clean)] == [clean]
    assert await place.read(path) == b"x"


async def test_names_that_can_not_be_shown_are_escaped_in_listings(place: Place) -> None:
    """45, 49."""
    names = [
        b"a\nb",
        b"\x1b[2J",
        b"\xff\xfe",
        b"\xc0\xaf",
        "\u202eevil".encode(),
        b"\xed\xa0\x80",
        "\u200b".encode(),
    ]
    names += ["\U000e0041".encode(), b"plain", b'quo"te', b"back\\slash"]
    await place.run(f"os.mkdir('d')\nfor name in {names!r}: open(b'd/' + name, 'w').write('here')")
    entries = await place.entries("d")
    assert len(entries) == len(names)
    assert all(entry.path.isprintable() for entry in entries)
    assert json.loads(json.dumps([entry.path for entry in entries]).encode()) == [e.path for e in entries]
    assert {entry.path for entry in entries if not entry.escaped} == {"plain", 'quo"te', "back\\slash"}
    assert {"a\\nb", "\\x1b[2J", "\\xff\\xfe"} <= {entry.path for entry in entries if entry.escaped}
    found = await place.do(SearchFiles("d", "here"))
    assert isinstance(found, Matches)
    assert len(found.matches) == len(names)
    assert all(match.path.isprintable() for match in found.matches)
    # They are gone with their directory.
    await place.do(DeleteFile("d", recursive=True))
    assert await place.names() == []


MOVING = {
    "grows": "while True: file.write(b'line of text\\n' * 1000); file.tell() > 20_000_000 and file.truncate(file.seek(1000))",
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


# --- what a program can do to the operation itself


async def test_a_pattern_that_never_ends_is_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "SECONDS", 1.0)
    await place.do(WriteFile("x", b"a" * 5000))
    with pytest.raises(LimitExceeded, match=r"took longer than 1 s"):
        await place.do(SearchFiles("x", "(a|a)*b"))
    assert await place.read("x", length=1) == b"a"


ATTACKS = {
    "stops it": "os.kill(pid, signal.SIGSTOP)",
    "kills it": "os.kill(pid, signal.SIGKILL)",
    "writes to its pipes": "[attempt(os.write, os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY), b'[' * 5000) for fd in (1, 2)]",
    "writes to all that it has": "[attempt(os.write, os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY), b'[' * 50)"
    " for fd in os.listdir(f'/proc/{pid}/fd')]",
    "reads its memory": "attempt(lambda: open(f'/proc/{pid}/mem').read(1))",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_program_that_attacks_file_operations_gets_them_refused_and_no_more(
    place: Place, lab: Lab, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "SECONDS", 2.0)
    monkeypatch.setattr(files_module, "STREAM_SECONDS", 2.0)
    code = f"""
me, seen = os.getpid(), set()
print("go", flush=True)
end = time.monotonic() + 30
while time.monotonic() < end:
    for pid in [int(p) for p in os.listdir("/proc") if p.isdigit() and p != "1" and int(p) != me]:
        try:
            {attack}
        except OSError: pass
"""
    await place.do(WriteFile("x", b"kept"))
    started = anyio.Event()
    results: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(place.run, code, wall=30, on_output=lambda _: started.set()))
        await started.wait()
        for number in range(8):
            with anyio.fail_after(10):
                try:
                    await place.do(WriteFile(f"new{number}", b"whole" * 1000))
                    results.append((await place.read("x")).decode())
                except (InvalidRequest, LimitExceeded, Busy) as error:
                    results.append(error.code)
        tasks.cancel_scope.cancel()
    assert set(results) <= {"kept", "limit_exceeded", "invalid_request", "busy"}
    # All or nothing, and no temporary file is left.
    for entry in await place.entries():
        assert re.fullmatch(r"new\d|x", entry.path)
        assert entry.size in (5000, 4)
    assert (await place.run("print('alive')")).stdout.text == "alive\n"


async def test_no_process_to_spare_is_busy_and_passes(place: Place) -> None:
    code = """
children = []
try:
    while True:
        pid = os.fork()
        if pid == 0: time.sleep(60)
        children.append(pid)
except BlockingIOError: pass
print("go", flush=True)
time.sleep(60)
"""
    started = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(place.run, code, wall=30, on_output=lambda _: started.set()))
        await started.wait()
        with pytest.raises(Busy):
            await place.do(ListFiles())
        tasks.cancel_scope.cancel()
    assert await place.names() == []


async def test_a_workspace_without_room_says_so_and_keeps_what_it_had(place: Place) -> None:
    await place.do(WriteFile("kept", b"old"))
    await place.run("os.posix_fallocate(os.open('big', os.O_CREAT | os.O_RDWR), 0, 60 << 20)")
    with pytest.raises(LimitExceeded, match="full"):
        await place.do(WriteFile("kept", bytes(7 * MIB)))
    assert await place.read("kept") == b"old"
    assert await place.names() == ["big", "kept"]


async def test_a_write_that_is_cancelled_leaves_nothing(place: Place) -> None:
    await place.do(WriteFile("first", b"x"))
    with anyio.move_on_after(0.02):
        await place.do(WriteFile("second", bytes(30 * MIB)))
    assert [name for name in await place.names() if name != "second"] == ["first"]
    for entry in await place.entries():
        assert entry.path == "first" or entry.size == 30 * MIB


async def test_a_tree_deeper_than_any_path_and_locked_is_deleted(place: Place) -> None:
    code = """
os.chdir("/workspace")
for i in range(3000): os.mkdir("d" * 100); os.chdir("d" * 100)
os.chdir("/workspace")
os.makedirs("locked/in"); open("locked/in/x", "w"); os.chmod("locked/in", 0); os.chmod("locked", 0)
"""
    assert (await place.run(code)).outcome == "ok"
    skipped, cursor = 0, None
    while skipped == 0 or cursor is not None:
        page = await place.do(ListFiles(recursive=True, limit=1000, cursor=cursor))
        assert isinstance(page, Listing)
        skipped, cursor = skipped + page.skipped, page.cursor
    assert skipped >= 1
    found = await place.do(SearchFiles(".", "."))
    assert isinstance(found, Matches)
    assert found.matches == ()
    with anyio.fail_after(20):
        await place.do(DeleteFile("d" * 100, recursive=True))
        await place.do(DeleteFile("locked", recursive=True))
    assert await place.names() == []


async def test_files_work_while_code_runs_and_are_shared_with_it(place: Place) -> None:
    code = """
print("go", flush=True)
end = time.monotonic() + 20
while not os.path.exists("signal") and time.monotonic() < end: time.sleep(0.01)
print(open("signal").read())
"""
    results = []
    started = anyio.Event()

    async def run() -> None:
        results.append(await place.run(code, wall=25, on_output=lambda _: started.set()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await started.wait()
        await place.do(WriteFile("signal", b"from outside"))
    assert results[0].stdout.text == "go\nfrom outside\n"


# --- size


@pytest.fixture
async def big(lab: Lab) -> AsyncIterator[Sandbox]:
    """A sandbox with room for 100 MB and for a million names."""
    limits = SandboxLimits(memory=1536 * MIB, workspace=400 * MIB, file_size=400 * MIB, inodes=1_100_000)
    profile = Profile("python", limits)
    engine = DockerEngine(Owner(lab.instance, uuid4().hex), tag_of)
    await engine.probe()
    sandbox = Sandbox(await engine.start(profile, deadline=time.time() + 600), profile)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.pump)
        await sandbox.greet()
        yield sandbox
        tasks.cancel_scope.cancel()
    await sandbox.destroy()
    await engine.aclose()


async def test_a_hundred_megabytes_go_in_and_out_unchanged(big: Sandbox) -> None:
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
    """As over MCP: `offset` makes a chunk that is sent again harmless."""
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
