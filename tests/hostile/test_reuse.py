"""What a program leaves in a sandbox that its caller's next run gets: nothing, or the sandbox is replaced."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from sandbox_server.execution.models import RunResult
from tests.hostile.conftest import Run
from tests.hostile.lab import Lab

LOOK = """
import ctypes, fcntl, json, locale, resource, signal, socket
PLACES = ["/workspace", "/tmp", "/dev/shm", "/dev/mqueue"]

def place(path):
    found = os.stat(path)
    flags = bytearray(8)
    try:
        fcntl.ioctl(os.open(path, os.O_RDONLY), 0x80086601, flags)
    except OSError:
        pass
    use = os.statvfs(path)
    attributes = [] if path == "/dev/mqueue" else os.listxattr(path)
    return {
        "names": os.listdir(path), "mode": oct(found.st_mode), "owner": [found.st_uid > 0, found.st_gid > 0],
        "flags": flags.hex(), "attributes": attributes, "old": found.st_mtime < 1e9,
        "use": [use.f_blocks - use.f_bfree, use.f_files - use.f_ffree],
    }

def ids(kind):
    return open(f"/proc/sysvipc/{kind}").read().splitlines()[1:]

def port(number):
    with socket.socket() as server:
        return attempt(server.bind, ("127.0.0.1", number))

def name():
    with socket.socket(socket.AF_UNIX) as server:
        return attempt(server.bind, "\\0left")

seen = {
    "places": {path: place(path) for path in PLACES},
    "ipc": {kind: ids(kind) for kind in ("shm", "msg", "sem")},
    "processes": len([pid for pid in os.listdir("/proc") if pid.isdigit()]),
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "cwd": os.getcwd(), "umask": os.umask(0o22), "nice": os.nice(0),
    "locale": locale.setlocale(locale.LC_ALL),
    "limits": [resource.getrlimit(number) for number in range(16)],
    "environment": dict(os.environ), "path": sys.path, "arguments": sys.argv,
    "signals": {n: str(signal.getsignal(n)) for n in range(1, 65) if n not in (32, 33)},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "timer": signal.getitimer(signal.ITIMER_REAL), "modules": sorted(sys.modules),
    "port": port(8080), "name": name(),
    "lock": open("/proc/locks").read() if os.access("/proc/locks", os.R_OK) else "",
}
print(json.dumps(seen))
"""
"""Everything that one can see of what an earlier run might have left."""

TRICKS = """
for top in ("/workspace", "/tmp", "/dev/shm"):
    os.chdir(top)
    os.makedirs("locked/inner/more")
    open("locked/inner/file", "w").write("x")
    os.chmod("locked/inner", 0); os.chmod("locked", 0)
    os.mkfifo("fifo"); os.symlink("/proc/self/root", "link"); os.link("link", "hard")
    open(b"bad\\xff\\nname\\x1b[2J", "w"); open("-rf", "w"); open("n" * 255, "w")
    os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 1 << 20)
    os.mkdir("deep"); os.chdir("deep")
    for _ in range({depth} if top == "/workspace" else 50):
        os.mkdir("d"); os.chdir("d")
    os.chdir(top)
os.chmod("/workspace", 0)
"""

LEAVINGS = {
    "files": TRICKS.replace("{depth}", "50"),
    "a depth of 5000": TRICKS.replace("{depth}", "5000"),
    "as many names as fit": """
for number in range(10**6):
    try:
        open(f"/workspace/{number}", "w").close()
    except OSError:
        break
""",
    "all the space there is": """
for top in ("/workspace", "/tmp", "/dev/shm"):
    try:
        with open(f"{top}/full", "wb") as file:
            while file.write(bytes(1 << 20)): pass
    except OSError:
        pass
""",
    "System V objects": """
libc.shmget(0x1234, 10 << 20, 0o1000 | 0o600)
libc.shmget(0, 4096, 0o1000)
libc.msgget(0x1234, 0o1000); libc.semget(0x1234, 10, 0o1000)
address = libc.shmat(libc.shmget(0x1234, 0, 0), None, 0)
""",
    "message queues": "libc.mq_open(b'/left', 0o102, 0o600, None)",
    "a daemon that stands still": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.wait()
""",
    "memory that somebody hogs": """
for number in range(3):
    if os.fork() == 0:
        hog = bytearray(40 << 20); time.sleep(100)
fd = os.memfd_create("hog"); os.write(fd, bytes(20 << 20)); time.sleep(0.2)
""",
    "a file that only a descriptor holds": """
fd = os.open("/workspace/gone", os.O_CREAT | os.O_RDWR)
os.write(fd, bytes(30 << 20)); os.unlink("/workspace/gone")
if os.fork() == 0:
    time.sleep(100)
""",
    "descriptors that are nowhere but on their way": """
import array, socket
fd = os.open("/tmp/gone", os.O_CREAT | os.O_RDWR); os.write(fd, bytes(5 << 20)); os.unlink("/tmp/gone")
for _ in range(10):
    a, b = socket.socketpair()
    for one, other in ((a, b), (b, a)):
        one.sendmsg([b"x"], [(1, 1, array.array("i", [a.fileno(), b.fileno(), fd]))])
""",
    "modes, times and attributes of its directories": """
os.utime("/workspace", (1, 1)); os.chmod("/workspace", 0o7777)
for top in ("/workspace", "/tmp", "/dev/shm"):
    attempt(os.utime, top); attempt(os.chmod, top, 0o777); attempt(os.setxattr, top, "user.left", b"x")
    acl = bytes.fromhex("0200000001000700ffffffff02000700") + (12345).to_bytes(4, "little")
    acl += bytes.fromhex("04000700ffffffff10000700ffffffff20000700ffffffff")
    attempt(os.setxattr, top, "system.posix_acl_access", acl)
    attempt(os.setxattr, top, "system.posix_acl_default", acl)
""",
    "limits, priorities, masks and the like": """
import locale, resource, wave
os.chdir("/usr"); os.umask(0o777); os.nice(5); os.environ["LEFT"] = "x"; locale.setlocale(locale.LC_ALL, "C")
for number in (0, 1, 7):
    resource.setrlimit(number, (20, 20))
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 100); signal.alarm(100)
sys.path.insert(0, "/left")
""",
    "locks and timers": """
import fcntl
fcntl.flock(os.open("/usr/bin/python3", os.O_RDONLY), fcntl.LOCK_EX)
fcntl.lockf(os.open("/tmp/lock", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
if os.fork() == 0:
    time.sleep(100)
""",
    "an abstract socket": """
import socket
server = socket.socket(socket.AF_UNIX); server.bind("\\0left"); server.listen()
if os.fork() == 0:
    time.sleep(100)
""",
}
"""Each is removed, so that the sandbox is used again."""

TALK = """
import socket
server = socket.create_server(("127.0.0.1", 8080)); client = socket.create_connection(("127.0.0.1", 8080))
other, _ = server.accept(); other.close(); client.close()
"""


async def seen(lab: Lab, principal: str) -> tuple[dict[str, Any], bool]:
    await lab.at_rest()
    result = await lab.run(LOOK, reuse_for=principal)
    assert result.outcome == "ok", result.stderr.text
    found: dict[str, Any] = json.loads(result.stdout.text)
    return found, result.timings.reused


async def left_by(lab: Lab, code: str, language: str = "python") -> tuple[dict[str, Any], bool, RunResult]:
    """What the run after `code` sees, whether it was in the same sandbox, and how `code` ended."""
    principal = uuid4().hex
    result = await lab.run(code, language, reuse_for=principal)
    return *await seen(lab, principal), result


@pytest.mark.parametrize("what", ["System V objects", "modes, times and attributes of its directories"])
async def test_what_is_left_can_be_seen_as_long_as_nobody_scrubs(cell: Run, lab: Lab, what: str) -> None:
    """75. Or the tests below would show nothing."""
    fresh, _ = await seen(lab, uuid4().hex)
    await cell(LEAVINGS[what])
    after = json.loads((await cell(LOOK)).stdout.text)
    assert (after["places"], after["ipc"]) != (fresh["places"], fresh["ipc"])


@pytest.mark.parametrize("what", LEAVINGS)
async def test_whatever_a_run_leaves_is_gone_for_the_next(lab: Lab, what: str) -> None:
    """75. What the next run sees in the scrubbed sandbox is what one sees in a sandbox of its own."""
    fresh, _ = await seen(lab, uuid4().hex)
    after, reused, result = await left_by(lab, LEAVINGS[what])
    assert (result.outcome, result.stderr.text) == ("ok", "")
    assert after == fresh
    assert reused


async def test_a_shells_run_leaves_nothing_either(lab: Lab) -> None:
    """75. Its program file is in /tmp."""
    fresh, _ = await seen(lab, uuid4().hex)
    after, reused, _ = await left_by(lab, "echo x >/tmp/left; sleep 100 & exit 0", "sh")
    assert after == fresh
    assert reused


async def test_what_can_not_be_removed_costs_the_sandbox(lab: Lab) -> None:
    """75. A closed connection keeps its port for a minute: no scrub can change that."""
    fresh, _ = await seen(lab, uuid4().hex)
    after, reused, result = await left_by(lab, TALK)
    assert (result.outcome, result.stderr.text) == ("ok", "")
    assert after == fresh
    assert not reused


async def test_a_run_that_met_a_limit_is_the_last_in_its_sandbox(lab: Lab) -> None:
    """75, 14. However clean it looks."""
    _, reused, result = await left_by(lab, "x = bytearray(10**10)\nfor i in range(0, len(x), 4096): x[i] = 1")
    assert result.outcome == "out_of_memory" or "MemoryError" in result.stderr.text
    assert reused == (result.outcome == "error")


async def test_runs_of_two_principals_never_meet(lab: Lab) -> None:
    """75, 76. Neither finds anything of the other's, and each goes on in its own."""
    mine, others = uuid4().hex, uuid4().hex
    for principal in (mine, others):
        result = await lab.run("libc.shmget(0x77, 4096, 0o1600)", reuse_for=principal)
        assert not result.timings.reused
    for principal in (others, mine):
        found, reused = await seen(lab, principal)
        assert reused
        assert found["ipc"]["shm"] == []


async def test_the_supervisor_stays_as_it_was_through_many_runs(lab: Lab) -> None:
    """75. Neither its descriptors nor its memory grow: its sandbox would not be used again."""
    principal = uuid4().hex
    reused = []
    for number in range(40):
        code = LEAVINGS["files"] if number % 10 == 5 else f"print({number})"
        reused.append((await lab.run(code, reuse_for=principal)).timings.reused)
        await lab.at_rest()
    assert reused == [False] + [True] * 39
