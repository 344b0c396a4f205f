"""Programs that attack through the files and the output that they leave. The real engine."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from sandbox_server.engines.profile import KIB, MIB
from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import Content, InputFile, Page
from tests.hostile.conftest import Run
from tests.hostile.lab import Heartbeat, Lab

NAMES = [
    b"line\nbreak", b"\x1b[31mred", b"\xff\xfe", b"x" * 255, b" ", b"%41", b"?offset=1", b"#a",
    "€\u202e".encode(), b"-rf", b"a\\b", b"\x7f", b"...", b"\xed\xa0\x80", b"C:", b"~",
]  # fmt: skip


@pytest.fixture
async def own(lab: Lab) -> AsyncIterator[str]:
    """A connection of the test's own, which leaves no session behind."""
    connection = uuid4().hex
    yield connection
    await lab.manager.close_connection(connection)


async def read(lab: Lab, uri: str | None, **page: int) -> Content:
    assert uri is not None
    return await lab.manager.read_resource(uri, Page(**page), caller=Caller())


@pytest.mark.parametrize("in_session", [False, True])
async def test_files_of_any_name_are_listed_shown_safely_and_read(
    lab: Lab, run: Run, own: str, in_session: bool
) -> None:
    """49."""
    code = f"for n in {NAMES!r}: open(b'/workspace/' + n, 'wb').write(n)"
    result = await run(code, connection=own if in_session else None)
    assert (result.outcome, result.artifacts_omitted, result.artifacts_complete) == ("ok", 0, True)
    assert len(result.artifacts) == len(NAMES)
    contents = set()
    for artifact in result.artifacts:
        assert artifact.path.isprintable()
        content = await read(lab, artifact.uri)
        assert artifact.size == content.total == len(content.data)
        contents.add(content.data)
    assert contents == set(NAMES)


@pytest.mark.parametrize("in_session", [False, True])
async def test_only_regular_files_count_and_nothing_is_followed(
    lab: Lab, run: Run, own: str, in_session: bool
) -> None:
    """40, 44."""
    code = """
import socket
os.symlink('/etc/passwd', 'link'); os.symlink('/proc/1/environ', 'secret'); os.symlink('/etc', 'etc')
os.symlink('.', 'loop'); os.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('socket')
os.mkdir('locked'); open('locked/a', 'w').close(); os.mkdir('d'); open('d/b', 'w').close()
os.link('d/b', 'hard')
deep = '/workspace'
for n in range(40): deep += '/deep'; os.mkdir(deep)
open(deep + '/c', 'w').close()
os.chmod('locked', 0)
"""
    result = await run(code, connection=own if in_session else None)
    assert (result.outcome, result.stderr.text) == ("ok", "")
    assert [artifact.path for artifact in result.artifacts] == ["d/b", "hard"]
    assert not result.artifacts_complete
    if in_session and result.session.id:
        # A program may put a link where a file was: it is read as the program would read it, in its sandbox.
        for path in (
            "fifo",
            "secret",
            "etc/passwd",
            "d",
            "link",
            "../etc/passwd",
            "/etc/passwd",
            "..%2f..%2fetc/passwd",
        ):
            with pytest.raises(NotFound):
                await read(lab, f"sandbox://{result.session.id}/{path}")


async def test_as_many_files_as_there_are_inodes_cost_little_and_are_counted(lab: Lab, run: Run) -> None:
    """34."""
    code = """
made = 0
try:
    for n in range(100_000):
        if n % 1000 == 0: os.makedirs(f'd{n}')
        open(f'd{n - n % 1000}/{n}', 'w').close(); made += 1
except OSError as error: print(errno.errorcode[error.errno])
print(made > 10_000)
"""
    result = await run(code, wall=20)
    assert result.stdout.text == "ENOSPC\nTrue\n"
    assert len(result.artifacts) == 64
    assert result.artifacts_omitted > 64
    assert not result.artifacts_complete
    assert all(artifact.uri for artifact in result.artifacts)


async def test_long_paths_are_counted_and_the_report_stays_small(run: Run) -> None:
    """34."""
    code = """
name = b'\\xff' * 255
for a in range(40):
    os.makedirs(b'%d/' % a + name + b'/' + name)
    open(b'%d/' % a + name + b'/' + name + b'/f', 'w').close()
os.makedirs(b'/'.join([name] * 5)); open(b'/'.join([name] * 5) + b'/f', 'w').close()
"""
    result = await run(code)
    assert result.outcome == "ok"
    assert 5 < len(result.artifacts) < 40
    assert len(result.artifacts) + result.artifacts_omitted == 41


async def test_what_the_call_put_there_counts_only_once_it_is_changed(run: Run, own: str) -> None:
    """Beyond the list."""
    files = tuple(
        InputFile(name, b"abc") for name in ("kept", "d/kept", "changed", "renamed", "d/touched", "gone")
    )
    code = """
os.rename('renamed', 'other'); open('changed', 'r+').write('xyz'); os.remove('gone')
os.utime('d/touched', ns=(0, 0))
"""
    for connection in (None, own, own):
        result = await run(code, connection=connection, files=files, bare=False)
        assert [artifact.path for artifact in result.artifacts] == ["changed", "d/touched", "other"]


async def test_a_cell_lists_its_own_files_and_not_the_last_ones(run: Run, own: str) -> None:
    """Beyond the list."""
    for number in range(12):
        result = await run(f"open('{number}', 'w').close()", connection=own)
        assert [artifact.path for artifact in result.artifacts] == [str(number)]
    assert (await run("pass", connection=own)).artifacts == ()


async def test_a_time_that_a_program_gives_its_file_does_not_hide_it(run: Run) -> None:
    """Beyond the list."""
    result = await run("open('old', 'w').close(); os.utime('old', (0, 0))")
    assert [artifact.path for artifact in result.artifacts] == ["old"]


@pytest.mark.parametrize("language", ["bash", "javascript"])
async def test_every_language_has_artifacts(run: Run, language: str) -> None:
    """Beyond the list."""
    code = {"bash": "echo hi > a.txt", "javascript": "require('fs').writeFileSync('a.txt', 'hi\\n')"}[
        language
    ]
    result = await run(code, language)
    assert [(artifact.path, artifact.size) for artifact in result.artifacts] == [("a.txt", 3)]


async def test_a_stopped_programs_files_are_kept(lab: Lab, run: Run) -> None:
    """Beyond the list."""
    result = await run("with open('a', 'w') as f: f.write('half')\ntime.sleep(60)", wall=0.5)
    assert result.outcome == "timeout"
    (artifact,) = result.artifacts
    assert (await read(lab, artifact.uri)).data == b"half"


async def test_large_binary_files_arrive_as_they_are(lab: Lab, run: Run) -> None:
    """Beyond the list."""
    code = """
import hashlib, random
data = random.randbytes(9_000_001)
open('large', 'wb').write(data); print(hashlib.sha256(data).hexdigest())
"""
    async with Heartbeat.watch() as heartbeat:
        result = await run(code)
        (artifact,) = result.artifacts
        digest, offset = hashlib.sha256(), 0
        while True:
            page = await read(lab, artifact.uri, offset=offset, limit=MIB)
            digest.update(page.data)
            if page.next is None:
                break
            offset = page.next
    assert digest.hexdigest() == result.stdout.text.strip()
    assert heartbeat.worst < 0.5


async def test_images_are_known_by_their_bytes(run: Run, own: str) -> None:
    """Beyond the list."""
    code = """
open('a.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(100))
open('b.JPG', 'wb').write(b'\\xff\\xd8\\xff' + bytes(100)); open('c.png', 'w').write('<script>')
open('d.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(300 * 1024))
"""
    for connection in (None, own):
        result = await run(code, connection=connection)
        shown = {artifact.path for artifact in result.artifacts if artifact.image}
        assert shown == {"a.png", "b.JPG"}


async def test_a_flood_can_be_read_whole_and_costs_the_server_no_memory(lab: Lab, run: Run) -> None:
    """50."""
    code = f"""
import hashlib
digest = hashlib.sha256()
for number in range({63 * 16}):
    piece = (b'%060d ok\\n' % number) * 1024
    os.write(1, piece[:65536]); digest.update(piece[:65536])
os.write(2, digest.hexdigest().encode())
"""
    async with Heartbeat.watch() as heartbeat:
        result = await run(code, wall=30, output=64 * KIB)
    assert result.outcome == "ok"
    assert result.stdout.total_bytes == result.stdout.kept_bytes == 63 * MIB
    assert heartbeat.growth < 16 * MIB
    assert heartbeat.worst < 0.5
    digest, offset = hashlib.sha256(), 0
    while True:
        page = await read(lab, result.stdout.uri, offset=offset, limit=256 * KIB)
        digest.update(page.data)
        if page.next is None:
            break
        offset = page.next
    assert digest.hexdigest() == result.stderr.text
    found = await lab.manager.read_resource(str(result.stdout.uri), Page(grep="0900 ok"), caller=Caller())
    assert found.found is not None
    assert found.found[0].text == f"{900:060d} ok"
