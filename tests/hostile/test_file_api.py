"""Files of a session under attack by the programs in it: paths, links, names. Numbers: see README.md."""

from __future__ import annotations

import json
from functools import partial

import anyio
import pytest

from sandbox_server.errors import (
    InvalidRequest,
    NotFound,
)
from sandbox_server.execution.file_models import (
    CopyFile,
    CreateDirectory,
    DeleteFile,
    Edit,
    EditFile,
    Entry,
    ListFiles,
    Matches,
    MoveFile,
    ReadFile,
    SearchFiles,
    StatFile,
    WriteFile,
)
from tests.hostile.file_place import Place, refused
from tests.hostile.lab import Lab

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
    "/workspace_evil/x", "/workspacex", "/tmpx", "/proc/self/root/etc/passwd", "/", "//",
    "a\0b", "\0", "a\nb", "a\x1b[2Jb",
    "a\u202eb", "a\u200bb", "a\u2066b", "\ufeffa", "\ud800", "x" * 256,
    "/".join(["d" * 200] * 21), "ä" * 128, "",
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
    for path in ("d/a\\nb", "d/a\nb", "d/\x1b[2J", "d/\\x1b[2J"):
        refusal = await refused(place, ReadFile(path))
        assert "code_execution" in refusal.hint
    renamed = "import glob; os.rename(glob.glob('d/a*b')[0], 'd/named')"
    assert (await place.run(renamed)).outcome == "ok"
    assert await place.read("d/named") == b"here"
    # They are gone with their directory.
    await place.do(DeleteFile("d", recursive=True))
    assert await place.names() == []
