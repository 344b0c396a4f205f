"""What programs can do to file operations that go on beside them."""

from __future__ import annotations

import re
from functools import partial

import anyio
import pytest

from sandbox_server.engines.profile import MIB
from sandbox_server.errors import (
    Busy,
    InvalidRequest,
    LimitExceeded,
)
from sandbox_server.execution import files as files_module
from sandbox_server.execution.file_models import (
    DeleteFile,
    ListFiles,
    Listing,
    Matches,
    SearchFiles,
    WriteFile,
)
from tests.hostile.file_place import Place
from tests.hostile.lab import Lab


async def test_a_pattern_that_never_ends_is_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """1."""
    monkeypatch.setattr(files_module, "SECONDS", 1.0)
    await place.do(WriteFile("x", b"a" * 5000))
    with pytest.raises(LimitExceeded, match=r"took longer than 1 s"):
        await place.do(SearchFiles("x", "(a|a)*b"))
    assert await place.read("x", length=1) == b"a"


ATTACKS = {
    "stops it": "os.kill(pid, signal.SIGSTOP)",
    "kills it": "os.kill(pid, signal.SIGKILL)",
    "writes to its pipes": "[attempt(os.write, os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY), b'[' * 5000)"
    " for fd in (1, 2)]",
    "writes to all that it has": "[attempt(os.write, os.open(f'/proc/{pid}/fd/{fd}', os.O_WRONLY), b'[' * 50)"
    " for fd in os.listdir(f'/proc/{pid}/fd')]",
    "reads its memory": "attempt(lambda: open(f'/proc/{pid}/mem').read(1))",
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_program_that_attacks_file_operations_gets_them_refused_and_no_more(
    place: Place, lab: Lab, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """54."""
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


async def test_a_child_of_the_supervisor_that_is_stopped_as_it_begins_gives_nothing_away(
    place: Place,
) -> None:
    """30, 54. At first it has our wire open; who could look into it then could speak for us."""
    code = """
print("go", flush=True)
caught, given, mine = set(), [], {"1", str(os.getpid())}
while not os.path.exists("enough"):
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in mine: continue
        try: os.kill(int(pid), signal.SIGSTOP)
        except OSError: continue
        caught.add(pid)
        try: given.append(os.listdir(f"/proc/{pid}/fd"))
        except OSError: pass
        attempt(os.kill, int(pid), signal.SIGCONT)
print(len(caught) > 5, given)
"""
    started = anyio.Event()
    outputs: list[str] = []

    async def watch() -> None:
        result = await place.run(code, wall=30, on_output=lambda _: started.set())
        outputs.append(result.stdout.text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await started.wait()
        for _ in range(40):
            await place.do(WriteFile("x", b"kept"))
        await place.do(WriteFile("enough", b""))
    assert outputs == ["go\nTrue []\n"]


async def test_no_process_to_spare_is_busy_and_passes(place: Place) -> None:
    """24."""
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
    """32."""
    await place.do(WriteFile("kept", b"old"))
    await place.run("os.posix_fallocate(os.open('big', os.O_CREAT | os.O_RDWR), 0, 60 << 20)")
    with pytest.raises(LimitExceeded, match="full"):
        await place.do(WriteFile("kept", bytes(7 * MIB)))
    assert await place.read("kept") == b"old"
    assert await place.names() == ["big", "kept"]


async def test_a_write_that_is_cancelled_leaves_nothing(place: Place) -> None:
    """48."""
    await place.do(WriteFile("first", b"x"))
    with anyio.move_on_after(0.02):
        await place.do(WriteFile("second", bytes(30 * MIB)))
    assert [name for name in await place.names() if name != "second"] == ["first"]
    for entry in await place.entries():
        assert entry.path == "first" or entry.size == 30 * MIB


async def test_a_tree_deeper_than_any_path_and_locked_is_deleted(place: Place) -> None:
    """34."""
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
    """47."""
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
