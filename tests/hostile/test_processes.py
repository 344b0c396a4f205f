"""Programs that multiply, hide, or attack other processes. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

from collections.abc import Callable
from textwrap import indent

import anyio
import pytest

from sandbox_server.errors import SandboxLost
from sandbox_server.execution.models import InputFile, RunResult
from tests.hostile.conftest import Run
from tests.hostile.lab import LIMITS, Heartbeat, Lab, on_time

BOMBS = {
    "python": ("python", "print(1, flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
    "bash": ("bash", "echo 1; b() { b | b & }; b; while :; do :; done"),
    "vfork and exec": (
        "bash",
        "echo 1; echo '(while :; do bash ./x & done) &' > x; bash x; bash x; while :; do :; done",
    ),
}


async def counted(lab: Lab, run: Callable[[], object], into: list[int]) -> None:
    """The most processes that any one sandbox had while `run` went on."""

    async def count() -> None:
        while True:
            here = [process.sandbox for process in lab.processes()]
            into.append(max((here.count(sandbox) for sandbox in set(here)), default=0))
            await anyio.sleep(0.05)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await run()  # type: ignore[misc]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("language", "code"), BOMBS.values(), ids=BOMBS)
async def test_a_fork_bomb_stays_within_its_limit_and_ends_on_time(
    run: Run, lab: Lab, language: str, code: str
) -> None:
    """24."""
    counts: list[int] = []
    results: list[RunResult] = []

    async def bomb() -> None:
        results.append(await on_time(run, code, language, wall=0.8))

    async with Heartbeat.watch() as heartbeat:
        await counted(lab, bomb, counts)
    assert results[0].stdout.text == "1\n"
    assert 20 < max(counts) <= LIMITS.pids
    assert heartbeat.worst < 0.5
    # Nothing is left on the host but supervisors.
    assert {process.name for process in lab.processes()} <= {"python3"}


async def test_a_fork_bomb_in_a_session_leaves_a_session_that_works(cell: Run, lab: Lab, mark: str) -> None:
    """24."""
    bomb = indent(f"rename({mark!r})\n{BOMBS['python'][1]}", "    ")
    # In a child: the interpreter itself lives on if it obeys the interrupt.
    await on_time(cell, f"if os.fork():\n    time.sleep(60)\nelse:\n{bomb}", wall=0.8)
    assert lab.named(mark) == []
    after = await cell("import subprocess; print(subprocess.run(['true']).returncode)")
    assert (after.stdout.text, after.session.state) == ("0\n", "kept")


async def test_a_thread_bomb_stays_within_its_limit_and_ends_on_time(run: Run) -> None:
    """25."""
    code = """
started, go = 0, threading.Event()
def burn():
    go.wait()
    while True: pass
while True:
    try:
        threading.Thread(target=burn, daemon=True).start()
        started += 1
    except RuntimeError:
        print(started, flush=True)
        go.set()
        burn()
"""
    result = await on_time(run, code, wall=1)
    assert 20 < int(result.stdout.text) < LIMITS.pids


async def test_zombies_that_nobody_waits_for_do_not_hinder_the_next_run(cell: Run) -> None:
    """26."""
    orphans = """
for _ in range(150):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
print("done")
"""
    assert (await cell(orphans)).stdout.text == "done\n"
    factory = """
made = 0
try:
    while True:
        if os.fork() == 0: os._exit(0)
        made += 1
except BlockingIOError:
    print(made)
"""
    result = await cell(factory)
    assert 20 < int(result.stdout.text) < LIMITS.pids
    assert result.session.state == "kept"
    # Its interpreter keeps the zombies, and all places; the next program gets one all the same.
    after = await cell("echo alive", "sh")
    assert (after.outcome, after.stdout.text) == ("ok", "alive\n")


async def test_threads_that_take_every_place_do_not_hinder_the_next_file(cell: Run) -> None:
    """25. To put a file PID 1 has to fork: the interpreter that left no room for that goes."""
    hoard = """
started, never = 0, threading.Event()
try:
    while True:
        threading.Thread(target=never.wait, daemon=True).start()
        started += 1
except RuntimeError:
    print(started)
"""
    result = await cell(hoard)
    assert 20 < int(result.stdout.text) < LIMITS.pids
    assert result.session.state == "kept"
    after = await cell("print(open('new').read())", files=(InputFile("new", b"here"),))
    assert (after.stdout.text, after.session.state) == ("here\n", "reset")


async def test_an_exec_loop_ends_on_time(run: Run) -> None:
    """27."""
    await on_time(run, 'exec /bin/bash "$0"', "bash", wall=0.6)
    again = "import os\nos.execv('/usr/bin/python3', ['python3', '-S', 'again.py'])"
    code = f"open('again.py', 'w').write({again!r})\n{again}"
    await on_time(run, code, wall=0.6)


KILLERS = {
    "everybody": ("attempt(os.kill, -1, 9)\nos.kill(os.getpid(), 9)", "SIGKILL"),
    "own group": ("os.kill(0, 9)", "SIGKILL"),
    "parent": ("os.kill(os.getppid(), 9)\nos.kill(os.getpid(), 15)", "SIGTERM"),
    "init": ("os.kill(1, 9)\nos.kill(1, 19)\nos.kill(os.getpid(), 6)", "SIGABRT"),
    "init by descriptor": (
        "signal.pidfd_send_signal(os.pidfd_open(1), 9)\nos.kill(os.getpid(), 3)",
        "SIGQUIT",
    ),
}


@pytest.mark.parametrize(("code", "signal"), KILLERS.values(), ids=KILLERS)
async def test_who_kills_everything_kills_itself_only(cell: Run, code: str, signal: str) -> None:
    """28."""
    await cell("open('kept', 'w').write('here')")
    result = await cell(code)
    assert (result.outcome, result.signal) == ("signal", signal)
    after = await cell("print(open('kept').read())")
    assert (after.stdout.text, after.session.state) == ("here\n", "kept")


async def test_no_signal_reaches_the_supervisor(cell: Run) -> None:
    """28. Python installs a handler for SIGINT by itself: it has to be taken off."""
    code = """
for number in range(1, 65):
    for _ in range(20):
        try: os.kill(1, number)
        except OSError: pass
        libc.syscall(234 if os.uname().machine == "x86_64" else 131, 1, 1, number)
print("sent")
"""
    assert (await cell(code)).stdout.text == "sent\n"
    after = await cell("print(number)")
    assert (after.stdout.text, after.session.state) == ("64\n", "kept")


async def test_stopping_everybody_only_wastes_the_programs_own_time(cell: Run) -> None:
    """28."""
    await on_time(cell, "os.kill(os.getpid(), signal.SIGSTOP)", wall=0.4)
    stopper = "child = os.fork()\nif child == 0:\n    while True: os.kill(-1, signal.SIGSTOP)\nos.wait()"
    await on_time(cell, stopper, wall=0.4)
    assert (await cell("print('alive')")).stdout.text == "alive\n"


CONFUSIONS = {
    "children of the supervisor": """
clone = 56 if os.uname().machine == "x86_64" else 220
made = 0
while (child := libc.syscall(clone, 0x8000 | 17, 0, 0, 0, 0)) > 0: made += 1  # CLONE_PARENT
if child == 0: time.sleep(1000)
print(made > 20)
""",
    "children that die with another signal": """
clone = 56 if os.uname().machine == "x86_64" else 220
for number in 2, 9, 17, 19, 34:
    if libc.syscall(clone, 0x8000 | number, 0, 0, 0, 0) == 0: os._exit(0)
print(True)
""",
    "adopts orphans": """
libc.prctl(36, 1, 0, 0, 0)
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0: time.sleep(1000)
        os._exit(0)
print(True)
""",
    "children whose first thread has ended": """
if os.fork() == 0:
    for _ in range(5): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
time.sleep(0.1)
print(True)
""",
    "signals sent by files": """
import fcntl, socket
for number in 2, 9, 15, 17, 19, 34:
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, fcntl.F_SETOWN, 1)
    fcntl.fcntl(ours, fcntl.F_SETSIG, number)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    theirs.send(b"x")
print(True)
""",
}


@pytest.mark.parametrize("code", CONFUSIONS.values(), ids=CONFUSIONS)
async def test_no_trick_with_kinship_confuses_the_supervisor(
    cell: Run, lab: Lab, code: str, mark: str
) -> None:
    """7, 26, 28."""
    result = await cell(f"import warnings; warnings.simplefilter('ignore')\nrename({mark!r})\n{code}")
    assert (result.outcome, result.stdout.text, result.session.state) == ("ok", "True\n", "kept")
    assert len(lab.named(mark)) == 1  # the interpreter
    assert (await cell("print('alive')")).stdout.text == "alive\n"


@pytest.mark.parametrize("target", ["1", "os.getppid()", "child"])
async def test_no_process_can_be_traced_or_read(probe: Run, target: str) -> None:
    """29."""
    code = f"""
child = os.fork()
if child == 0:
    time.sleep(100)
target = {target}
buffer = ctypes.create_string_buffer(64)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
here = ctypes.byref(Vector(ctypes.addressof(buffer), 64))
for name in "process_vm_readv", "process_vm_writev":
    print(call(name, target, here, 1, here, 1, 0))
for request in 0x4206, 16, 0:  # SEIZE, ATTACH, TRACEME
    print(call("ptrace", request, target, None, None))
x86 = os.uname().machine == "x86_64"
print(call("syscall", 312 if x86 else 272, target, os.getpid(), 0, 0, 0))  # kcmp
print(call("syscall", 438, os.pidfd_open(target), 0, 0))  # pidfd_getfd
os.kill(child, 9)
"""
    answers = (await probe(code)).stdout.text.split()
    assert len(answers) == 7
    assert set(answers) == {"EPERM"}


async def test_nothing_of_the_supervisor_can_be_opened(probe: Run) -> None:
    """30."""
    code = """
names = ["mem", "environ", "maps", "auxv", "fd", "fdinfo", "root", "cwd", "exe", "io", "stack", "syscall",
         "pagemap", "personality", "task/1/mem", "map_files", "ns/net", "ns/mnt", "ns/user"]
for name in names:
    path = f"/proc/1/{name}"
    opened = attempt(os.listdir if name in ("fd", "fdinfo", "map_files") else
                     os.readlink if name in ("root", "cwd", "exe") or name.startswith("ns/") else
                     lambda path: open(path, "rb").read(8), path)
    print(name, opened)
for path in "/proc/1/root/etc", "/proc/1/cwd/x", "/proc/1/fd/0", "/proc/1/fd/64", "/proc/1/fd/65":
    print(path, attempt(os.stat, path))
for path in "oom_score_adj", "mem", "clear_refs", "coredump_filter", "autogroup", "timerslack_ns", "comm":
    print(path, attempt(lambda: os.write(os.open(f"/proc/1/{path}", os.O_WRONLY), b"1")))
"""
    lines = (await probe(code)).stdout.text.splitlines()
    assert len(lines) == 31
    refused = {"EACCES", "EPERM", "ENOENT", "EINVAL"}
    assert [line for line in lines if line.split()[-1] not in refused] == []


async def test_priorities_can_not_be_raised(probe: Run) -> None:
    """31."""
    code = """
for score in b"-1000", b"-1":
    print(attempt(os.write, os.open("/proc/self/oom_score_adj", os.O_WRONLY), score))
print(attempt(os.nice, -20), attempt(os.setpriority, os.PRIO_PROCESS, 0, -5))
for policy in os.SCHED_FIFO, os.SCHED_RR:
    print(attempt(os.sched_setscheduler, 0, policy, os.sched_param(1)))
x86 = os.uname().machine == "x86_64"
print(call("syscall", 251 if x86 else 30, 1, 0, 1 << 13))  # ioprio_set(REALTIME)
deadline = (ctypes.c_uint64 * 7)(56 | 6 << 32, 0, 0, 10 ** 7, 10 ** 8, 10 ** 8, 0)
print(call("syscall", 314 if x86 else 274, 0, deadline, 0))  # sched_setattr(SCHED_DEADLINE)
"""
    answers = (await probe(code)).stdout.text.split()
    assert len(answers) == 8
    assert set(answers) <= {"EPERM", "EACCES"}


async def test_the_supervisors_priority_and_limits_can_not_be_touched(probe: Run) -> None:
    """31. By user id alone the kernel would allow all of these."""
    code = """
import resource
x86 = os.uname().machine == "x86_64"
limit = (ctypes.c_uint64 * 2)(3, 3)
for pid in 1, 1 | 1 << 32:
    number = ctypes.c_uint64(pid)
    print(call("syscall", 302 if x86 else 261, number, resource.RLIMIT_NOFILE, limit, None))  # prlimit64
    print(call("syscall", 141 if x86 else 140, os.PRIO_PROCESS, number, 19))  # setpriority
    print(call("syscall", 144 if x86 else 119, number, os.SCHED_IDLE, ctypes.byref(ctypes.c_int(0))))
    print(call("syscall", 203 if x86 else 122, number, 8, ctypes.byref(ctypes.c_uint64(1))))  # sched_setaffinity
print(attempt(os.setpriority, os.PRIO_PGRP, 1, 19), attempt(os.setpriority, os.PRIO_USER, 0, 19))
print(os.getpriority(os.PRIO_PROCESS, 1), os.sched_getscheduler(1))
"""
    answers = (await probe(code)).stdout.text.split()
    assert answers == ["EPERM"] * 10 + ["0", "0"]


async def test_a_bomb_that_makes_its_supervisor_the_likelier_victim_never_looks_like_success(
    cell: Run,
) -> None:
    """31. A process may lower its OOM score to what the sandbox was started with, so the kernel may pick PID 1.
    Then nobody is left who could count, and not every engine tells of it."""
    code = """
for score in range(1000, -1, -50):
    if attempt(os.write, os.open("/proc/self/oom_score_adj", os.O_WRONLY), str(score).encode()) != "allowed":
        break
for place in "/workspace", "/tmp", "/dev/shm":
    for part in range(2):
        try: open(f"{place}/{part}", "wb", 0).write(bytes(64 << 20))
        except OSError: pass
while True:
    try:
        if os.fork() == 0:
            kept = [bytearray(1 << 19) for _ in range(16)]
            time.sleep(100)
    except OSError:
        time.sleep(0.01)
"""
    try:
        result = await cell(code, wall=5)
    except SandboxLost:
        pass
    else:
        assert (result.outcome, result.limit) == ("out_of_memory", "memory")
        assert result.session.state in ("reset", "lost")
    after = await cell("rm -f /workspace/* /tmp/* /dev/shm/*; echo alive", "sh")
    assert (after.outcome, after.stdout.text) in (("ok", "alive\n"), ("out_of_memory", "alive\n"))
