"""Programs that look for others: earlier runs, other tenants, the host. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import anyio
import psutil

from tests.hostile.conftest import Run
from tests.hostile.lab import Lab

ENVIRONMENT = {
    "PATH", "HOSTNAME", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "MPLBACKEND", "MPLCONFIGDIR",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE",
    # pip's own settings, from the image: wheels only, no cache, no questions.
    "PIP_USER", "PIP_BREAK_SYSTEM_PACKAGES", "PIP_ONLY_BINARY", "PIP_NO_CACHE_DIR", "PIP_NO_INPUT",
    "PIP_NO_COMPILE", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_CONSTRAINT", "PIP_NO_WARN_SCRIPT_LOCATION",
    "PYTHONUSERBASE",
}  # fmt: skip


async def test_the_environment_is_a_fixed_small_list(probe: Run, lab: Lab) -> None:
    """74."""
    code = """
print(*sorted(os.environ))
print(open("/proc/self/environ").read() == "" or sorted(os.environ) and "same")
print(os.uname().nodename, open("/proc/1/cmdline").read().replace("\\0", " "))
print(repr(open("/etc/resolv.conf").read()), repr(open("/etc/hosts").read()), repr(open("/etc/hostname").read()))
print(os.path.exists("/etc/machine-id"), os.path.exists("/var/lib/dbus/machine-id"), os.path.exists("/.dockerenv"))
print(open("/proc/self/cgroup").read().count(":/\\n") == open("/proc/self/cgroup").read().count("\\n"))
"""
    lines = (await probe(code)).stdout.text.splitlines()
    assert set(lines[0].split()) <= ENVIRONMENT
    assert lines[2] == "sandbox /usr/bin/python3 -I -u /opt/sandbox/runner.py "
    assert lines[3] == "'' '' 'sandbox\\n'"
    assert lines[4].split()[:2] == ["False", "False"]
    assert lines[5] == "True"


async def test_nothing_of_the_server_or_the_host_can_be_read(probe: Run, lab: Lab) -> None:
    """74. What mountinfo tells of the engine's directories is documented in README.md."""
    code = """
names = "mountinfo", "environ", "cgroup", "status", "maps", "auxv", "limits", "cmdline"
print(*(open(f"/proc/self/{name}", "rb").read() for name in names))
print(open("/proc/cmdline").read())
print(os.uname(), os.listdir("/proc"), os.listdir("/sys/class/net"), os.listdir("/"), os.listdir("/home"))
"""
    text = (await probe(code, output=1 << 18)).stdout.text
    secrets = [
        lab.instance,
        os.uname().nodename if os.uname().nodename != "sandbox" else "\0",
        str(Path.home()),
        str(Path.cwd()),
    ]
    secrets = [secret for secret in secrets if len(secret) > 3]
    assert len(secrets) >= 2
    assert [secret for secret in secrets if secret in text] == []
    paths = {
        word
        for word in text.replace(",", " ").replace("=", " ").replace(":", " ").split()
        if word.startswith("/var/lib/docker")
    }
    assert all(
        path.startswith(("/var/lib/docker/overlay2/", "/var/lib/docker/containers/")) for path in paths
    )


TRACES = """
import socket
libc.shmget(0x1234, 4096, 0o1666)
libc.semget(0x1234, 1, 0o1666)
libc.msgget(0x1234, 0o1666)
for place in "/workspace", "/tmp", "/dev/shm":
    open(f"{place}/trace", "w").write("secret")
os.environ["TRACE"] = "secret"
sys.modules["trace_module"] = os
import random; random.seed(1)
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0trace")
if os.fork() == 0:
    os.setsid(); time.sleep(1000)
print("left")
"""
LOOK = """
print([os.path.exists(f"{place}/trace") for place in ("/workspace", "/tmp", "/dev/shm")])
print(call("shmget", 0x1234, 0, 0), call("semget", 0x1234, 0, 0), call("msgget", 0x1234, 0))
print("TRACE" in os.environ, "trace_module" in sys.modules, "trace" in open("/proc/net/unix").read())
alive = {name for name in os.listdir("/proc") if name.isdigit() and ") Z" not in open(f"/proc/{name}/stat").read()}
print(alive == {"1", str(os.getpid())})
"""
NOTHING = ["[False, False, False]", "ENOENT ENOENT ENOENT", "False False False", "True"]


async def test_a_run_sees_nothing_of_an_earlier_one(run: Run) -> None:
    """75."""
    assert (await run(TRACES)).stdout.text == "left\n"
    assert (await run(LOOK)).stdout.text.splitlines() == NOTHING


async def test_random_numbers_of_two_runs_differ(run: Run) -> None:
    """75. Both are forks of equal interpreters."""
    code = "import random, uuid, tempfile\nprint(random.random(), uuid.uuid4(), tempfile.mktemp())"
    first, second = (await run(code)).stdout.text.split(), (await run(code)).stdout.text.split()
    assert [one for one, two in zip(first, second, strict=True) if one == two] == []


async def test_a_session_keeps_state_and_files_but_no_process(cell: Run, lab: Lab, mark: str) -> None:
    """75."""
    await cell(f"x = 1\nif os.fork() == 0:\n    rename({mark!r}); os.setsid(); time.sleep(1000)\n" + TRACES)
    assert lab.named(mark) == []
    result = await cell(LOOK + "print(x)")
    assert result.stdout.text.splitlines() == [
        "[True, True, True]",
        "allowed allowed allowed",
        "True True True",
        "True",
        "1",
    ]


async def test_a_sessions_threads_stand_still_between_its_calls(cell: Run, lab: Lab, mark: str) -> None:
    """75. A call that has ended uses no CPU time and changes nothing any more."""
    code = f"""
rename({mark!r})
turns = 0
def burn():
    global turns
    while True: turns += 1
for _ in range(3): threading.Thread(target=burn, daemon=True).start()
"""
    assert (await cell(code)).outcome == "ok"
    [interpreter] = lab.named(mark)
    process = psutil.Process(interpreter.pid)
    before = sum(process.cpu_times()[:2])
    watched = time.monotonic() + 0.3
    while time.monotonic() < watched:
        await anyio.sleep(0.05)
        assert process.status() == psutil.STATUS_STOPPED
    assert sum(process.cpu_times()[:2]) == before
    assert (await cell("begin = turns\ntime.sleep(0.1)\nprint(turns > begin)")).stdout.text == "True\n"


ALARM = """
class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int), ("pad", ctypes.c_char * 48)]
event, timer = Event(signal=signal.SIGCONT), ctypes.c_void_p()
assert libc.timer_create(1, ctypes.byref(event), ctypes.byref(timer)) == 0
assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 40_000_000, 0, 60_000_000), None) == 0
"""


async def test_an_interpreter_that_wakes_itself_between_calls_ends_and_the_next_call_says_so(
    cell: Run, lab: Lab, mark: str
) -> None:
    """75. A timer may send SIGCONT, and a stopped process can't tell that from ours."""
    code = f"""
rename({mark!r})
begin = time.monotonic()
def wait():
    while time.monotonic() - begin < 0.2: time.sleep(0.01)
    while True: os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
threading.Thread(target=wait, daemon=True).start()
{ALARM}"""
    assert (await cell(code)).session.state == "kept"
    await lab.until(lambda: not lab.named(mark))
    others = await cell("ls -d /proc/[0-9]* | grep -v -e /1$ -e /$$$ | wc -l", "sh")
    assert int(others.stdout.text) <= 3  # the pipe's own
    assert others.session.state == "reset"
    assert "python interpreter has ended" in others.session.note
    after = await cell("print('begin' in globals())")
    assert (after.stdout.text, after.session.state) == ("False\n", "kept")


async def test_who_kills_another_languages_interpreter_says_so_in_its_own_result(
    cell: Run, lab: Lab, mark: str
) -> None:
    """28, 75."""
    code = f"rename({mark!r})\nprint(os.getpid())"
    pid = (await cell(code)).stdout.text.strip()
    killer = await cell(f"kill -9 {pid}; echo done", "sh")
    assert (killer.outcome, killer.stdout.text, killer.session.state) == ("ok", "done\n", "reset")
    assert lab.named(mark) == []
    pid = (await cell(code)).stdout.text.strip()
    assert (await cell("echo harmless", "sh")).session.state == "kept"
    assert (await cell(f"kill -CONT {pid}; sleep 0.1", "sh")).session.state == "reset"


STUBBORN = {
    "forks for ever": "def stay():\n    while True:\n        try:\n            if os.fork() == 0: time.sleep(9)\n        except OSError: pass",
    "wakes its parent": (
        "def stay():\n    while True:\n        try:\n            if os.fork() == 0:\n"
        "                while True: os.kill(os.getppid(), signal.SIGCONT)\n        except OSError: pass"
    ),
    "writes for ever": "out = os.dup(1)\ndef stay():\n    while True: os.write(out, b'x' * 4096)",
}


async def test_a_thread_that_resists_its_cells_end_keeps_neither_process_nor_output(
    cell: Run, lab: Lab, mark: str
) -> None:
    """75."""
    for code in STUBBORN.values():
        result = await cell(
            f"import warnings; warnings.simplefilter('ignore')\nrename({mark!r})\n{code}\n"
            "threading.Thread(target=stay, daemon=True).start()\ntime.sleep(0.05)"
        )
        assert result.outcome == "ok"
        assert result.session.state in ("kept", "reset")
        [_] = lab.named(mark)
        assert (await cell("sys.exit(os.execv('/bin/true', ['true']))")).session.state == "reset"


async def test_a_cell_can_not_speak_for_the_next(cell: Run) -> None:
    """54, 75. Whatever goes into the socket of the interpreter, the next cell's end is its own."""
    flood = """
socket_fds = [fd for fd in range(3, 256) if attempt(os.fstat, fd) == "allowed" and os.readlink(f"/proc/self/fd/{fd}").startswith("socket")]
for fd in socket_fds:
    os.set_blocking(fd, False)
    for message in (b"0", b"9" * 64, b"0 0", b"x" * 64, b"\\xff") * 100:
        try: os.write(fd, message)
        except OSError: pass
    os.set_blocking(fd, True)
sys.exit(5)
"""
    assert (await cell(flood)).exit_code == 5
    for _ in range(3):
        result = await cell("time.sleep(0.05)\nprint('whole')\nsys.exit(6)")
        assert (result.exit_code, result.stdout.text) == (6, "whole\n")


async def test_a_child_that_leaves_the_cell_does_not_end_it(cell: Run) -> None:
    """54, 75."""
    result = await cell("child = os.fork()\nif child:\n    time.sleep(0.2)\n    print('parent')")
    assert (result.stdout.text, result.session.state) == ("parent\n", "kept")
    assert (await cell("print(child > 0)")).stdout.text == "True\n"


DAMAGES = {
    "closes everything": "os.closerange(0, 4096)",
    "exits": "os._exit(0)",
    "breaks builtins": "import builtins; builtins.open = builtins.len = None",
    "no descriptors": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
    "no file size": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    "no memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))",
    "no stack": "import resource; resource.setrlimit(resource.RLIMIT_STACK, (4096, 4096))",
    "trace": "sys.settrace(lambda *_: 1 / 0); threading.settrace(lambda *_: 1 / 0)",
    "audit hook": "sys.addaudithook(lambda *_: 1 / 0)",
    "seccomp": "libc.prctl(38, 1, 0, 0, 0); libc.prctl(22, 1, 0, 0, 0)",
    "alarms": "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)",
    "streams": "sys.stdout = sys.stderr = sys.stdin = None; del sys.__stdout__",
    "all descriptors used": "kept = []\ntry:\n    while True: kept.append(os.open('/dev/null', 0))\nexcept OSError: pass",
    "exception": "class M(type):\n    __name__ = property(lambda c: 1 / 0)\nclass E(BaseException, metaclass=M):\n    def __str__(s): return 1 / 0\nraise E",
    "closes its stderr": "os.close(2)\n1 / 0",
    "death signal": "libc.prctl(1, 9, 0, 0, 0)\nlibc.prctl(36, 1, 0, 0, 0)",
    "becomes another program": "os.execv('/bin/sleep', ['sleep', '0'])",
}


async def test_whatever_a_cell_does_to_its_interpreter_the_session_goes_on(lab: Lab) -> None:
    """75."""
    sick = partial(lab.run, connection="damaged", bare=True, wall=2)
    await lab.run("open('kept', 'w').write('here')", connection="damaged")
    stuck = {}
    for name, code in DAMAGES.items():
        await lab.run(code, connection="damaged", wall=2)
        # The first cell afterwards may still meet the damage.
        after = [await sick("print('alive')") for _ in range(2)]
        if after[1].stdout.text != "alive\n":
            stuck[name] = after
        await sick("import os; os._exit(0)")
    assert stuck == {}
    assert (await sick("print(open('kept').read())")).stdout.text == "here\n"
    await lab.manager.close_connection("damaged")


async def test_two_tenants_can_neither_see_nor_signal_each_other(lab: Lab, mark: str) -> None:
    """76."""
    hidden = f"{mark}-b"
    await lab.run(
        f"open('/dev/shm/x', 'w').write('{hidden}')\nlibc.shmget(0x77, 4096, 0o1666)\nrename({mark!r})",
        connection="tenant-a",
    )
    [other] = lab.named(mark)
    code = f"""
print([name for name in os.listdir("/proc") if name.isdigit() and open(f"/proc/{{name}}/comm").read().strip() == {mark!r}])
print(attempt(os.kill, {other.pid}, 9), attempt(os.stat, "/proc/{other.pid}"), os.path.exists("/dev/shm/x"), call("shmget", 0x77, 0, 0))
print(os.getuid())
"""
    result = await lab.run(code, connection="tenant-b")
    seen, touched, uid = result.stdout.text.splitlines()
    assert seen == "[]"
    assert touched == "ESRCH ENOENT False ENOENT"
    own = (await lab.run("print(os.getuid())", connection="tenant-a")).stdout.text
    assert own.strip() != uid  # limits that the kernel counts per user are not shared
    for connection in "tenant-a", "tenant-b":
        await lab.manager.close_connection(connection)


async def test_a_lock_on_a_file_of_the_image_is_not_seen_by_another_sandbox(cell: Run, run: Run) -> None:
    """77. Locks belong to a sandbox's own overlay; what stays is timing of the shared page cache (README.md)."""
    lock = "import fcntl\nfile = open('/usr/bin/python3')\nprint(attempt(fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB))"
    assert (await cell(lock)).stdout.text == "allowed\n"
    again = "print(attempt(fcntl.flock, open('/usr/bin/python3'), fcntl.LOCK_EX | fcntl.LOCK_NB))"
    assert (await cell(again)).stdout.text == "EAGAIN\n"  # in its own sandbox the lock holds
    assert (await run(lock)).stdout.text == "allowed\n"


async def test_what_the_host_shows_of_others_is_what_is_documented(probe: Run) -> None:
    """78. The whole list of README.md: load, memory, CPU time and uptime of the host, and nothing per tenant."""
    code = """
readable = set()
for name in os.listdir("/proc"):
    if name.isdigit() or os.path.isdir(f"/proc/{name}"): continue
    try:
        if open(f"/proc/{name}", "rb").read(16): readable.add(name)
    except OSError: pass
print(*sorted(readable))
"""
    readable = set((await probe(code)).stdout.text.split())
    assert {"loadavg", "stat", "meminfo", "uptime"} <= readable
    assert readable <= {
        "buddyinfo", "cgroups", "consoles", "cpuinfo", "crypto", "devices", "execdomains", "fb", "filesystems",
        "dma", "ioports", "loadavg", "meminfo", "misc", "mdstat", "mtrr", "stat", "mounts", "uptime", "version", "vmstat",
        "version_signature", "bootconfig",
    }  # fmt: skip
