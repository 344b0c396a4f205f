"""Programs that take all the memory they can get. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import time

import anyio
import pytest

from sandbox_server.engines.profile import MIB
from sandbox_server.errors import LimitExceeded, SandboxLost
from tests.hostile.conftest import Run
from tests.hostile.lab import LIMITS, Heartbeat, Lab

BOMBS = {
    "list": ("python", "x = [1] * 10 ** 9"),
    "pieces": ("python", "x = [bytearray(1 << 20) for _ in range(10 ** 4)]"),
    "javascript": ("javascript", "const x = []; for (;;) x.push(Buffer.alloc(1 << 20, 1));"),
    "bash": ("bash", "x=$(yes)"),
}


@pytest.mark.parametrize(("language", "code"), BOMBS.values(), ids=BOMBS)
async def test_a_memory_bomb_is_out_of_memory_and_the_server_lives(
    run: Run, language: str, code: str
) -> None:
    """14."""
    async with Heartbeat.watch() as heartbeat:
        result = await run(code, language, wall=10)
    assert (result.outcome, result.limit) == ("out_of_memory", "memory")
    assert result.usage.peak_memory is not None
    assert 0.9 * LIMITS.memory < result.usage.peak_memory <= LIMITS.memory
    assert heartbeat.growth < 20 * MIB
    assert (await run("print('alive')")).stdout.text == "alive\n"


async def test_memory_that_is_only_reserved_does_not_count(run: Run) -> None:
    """15."""
    code = """
import mmap
area = mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE)
area[0] = area[-1] = 1
print(len(area))
"""
    result = await run(code)
    assert (result.outcome, result.stdout.text) == ("ok", f"{4 << 30}\n")
    assert result.usage.peak_memory is not None
    assert result.usage.peak_memory < 100 * MIB


async def test_an_executable_with_a_huge_bss_fails_to_start_cleanly(run: Run) -> None:
    """16. A copy of /usr/bin/true whose last segment claims a petabyte of zeros."""
    code = """
import struct, subprocess
image = bytearray(open("/usr/bin/true", "rb").read())
table, size, count = struct.unpack_from("<Q", image, 32)[0], *struct.unpack_from("<HH", image, 54)
loads = [table + i * size for i in range(count) if struct.unpack_from("<I", image, table + i * size)[0] == 1]
struct.pack_into("<Q", image, loads[-1] + 40, 1 << 50)
open("huge", "wb").write(image)
os.chmod("huge", 0o755)
try:
    print(subprocess.run(["./huge"]).returncode < 0)
except OSError as error:
    print(error.errno in (errno.ENOMEM, errno.EINVAL, errno.ENOEXEC))
"""
    result = await run(code)
    assert (result.outcome, result.stdout.text) == ("ok", "True\n")


async def test_a_child_out_of_memory_shows_although_its_parent_succeeds(run: Run) -> None:
    """17."""
    code = """
if os.fork() == 0:
    x = [bytearray(1 << 20) for _ in range(10 ** 4)]
print(os.WTERMSIG(os.wait()[1]))
"""
    result = await run(code, wall=10)
    assert (result.outcome, result.limit, result.exit_code) == ("out_of_memory", "memory", 0)
    assert result.stdout.text == "9\n"


async def test_every_writable_file_system_is_full_before_memory_is(run: Run) -> None:
    """18."""
    code = """
for place in "/workspace", "/tmp", "/dev/shm":
    size = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    written, reason, part = 0, "", 0
    while reason != "ENOSPC":
        part += 1
        try:
            with open(f"{place}/{part}", "wb", 0) as file:
                while True: written += file.write(b"x" * 65536)
        except OSError as error:
            reason = errno.errorcode[error.errno]
    print(place, reason, size - written)
raise SystemExit(1)
"""
    result = await run(code, wall=10)
    assert result.stdout.text == "/workspace ENOSPC 0\n/tmp ENOSPC 0\n/dev/shm ENOSPC 0\n"
    assert (result.outcome, result.limit) == ("disk_full", "disk")
    assert result.usage.peak_memory is not None
    assert LIMITS.workspace + LIMITS.tmp + LIMITS.shm <= result.usage.peak_memory < LIMITS.memory


HIDING_PLACES = {
    "memfd": """
kept = []
while True:
    fd = os.memfd_create("x")
    kept.append(fd)
    for _ in range(32): os.write(fd, bytes(1 << 20))
""",
    "shared memory": """
libc.shmat.restype = ctypes.c_void_p
while True:
    segment = libc.shmget(0, 16 << 20, 0o1600)
    address = libc.shmat(segment, None, 0)
    if segment == -1: break
    ctypes.memset(address, 1, 16 << 20)
    libc.shmdt(ctypes.c_void_p(address))
""",
    "anonymous shared mapping": """
import mmap
kept = [mmap.mmap(-1, 1 << 30)]
for offset in range(0, 1 << 30, 4096): kept[0][offset] = 1
""",
}


@pytest.mark.parametrize("code", HIDING_PLACES.values(), ids=HIDING_PLACES)
async def test_memory_hidden_outside_of_a_process_counts_and_is_given_back(
    run: Run, lab: Lab, code: str
) -> None:
    """19."""
    async with Heartbeat.watch():
        result = await run(code, wall=10)
    assert (result.outcome, result.limit) == ("out_of_memory", "memory")
    assert result.usage.peak_memory is not None
    assert 0.9 * LIMITS.memory < result.usage.peak_memory <= LIMITS.memory
    await lab.until(lambda: lab.memory() < LIMITS.memory // 2)


async def test_memory_that_no_process_holds_can_not_wedge_a_session(cell: Run) -> None:
    """18, 19. Shared segments and files outlive their makers: every later call ends, and in time."""
    code = """
libc.shmat.restype = ctypes.c_void_p
for path in "/workspace/x", "/tmp/x", "/dev/shm/x":
    try: open(path, "wb", 0).write(bytes(64 << 20))
    except OSError: pass
for size in (16 << 20,) * 20:
    segment = libc.shmget(0, size, 0o1600)
    address = libc.shmat(segment, None, 0)
    print(".", end="", flush=True)
    ctypes.memset(address, 1, size)
    libc.shmdt(ctypes.c_void_p(address))
"""
    result = await cell(code)
    assert result.outcome == "out_of_memory"
    assert len(result.stdout.text) > 4
    for language in "python", "sh":
        try:
            after = await cell(
                "echo alive" if language == "sh" else "print('alive')", language, wall=3, bare=True
            )
        except (SandboxLost, LimitExceeded):
            continue
        assert after.outcome in ("ok", "out_of_memory")
        assert after.usage.wall < 3


async def test_message_queues_and_semaphores_are_bounded(run: Run) -> None:
    """19. POSIX queues are off by their limit; System V's end by the kernel's or by memory."""
    code = """
print(call("mq_open", b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None))
message = ctypes.create_string_buffer(8 + 8192)
message[0] = 1
full = 0
for _ in range(40_000):
    queue = libc.msgget(0, 0o1600)
    if queue == -1: break
    while libc.msgsnd(queue, message, 8192, 0o4000) == 0: full += 8192
print("queues are bounded", full >> 20 < 256)
"""
    # Their bound is memory. How long it takes to fill is the host's affair: programs are the last to get CPU.
    result = await run(code, wall=20)
    assert result.stdout.text.startswith("EMFILE\n")
    assert result.outcome in ("ok", "out_of_memory")
    assert result.usage.peak_memory is not None
    assert result.usage.peak_memory <= LIMITS.memory


async def test_memory_can_not_be_locked(probe: Run) -> None:
    """20."""
    code = """
import mmap
area = mmap.mmap(-1, 8 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
print(call("mlockall", 3), call("mlock", ctypes.c_void_p(address), 8 << 20))
"""
    refused = {"ENOMEM", "EPERM"}
    answers = (await probe(code)).stdout.text.split()
    assert len(answers) == 2
    assert set(answers) <= refused


NESTED = "x = []\nfor _ in range(9_000): x = [x]\nsys.setrecursionlimit(10 ** 6)\nrepr(x)"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "ctypes.string_at(0)"),
        (
            "python",
            "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 18, 1 << 18))\n" + NESTED,
        ),
    ],
    ids=["null pointer", "stack overflow"],
)
async def test_a_crash_is_reported_as_its_signal(run: Run, language: str, code: str) -> None:
    """21."""
    result = await run(code, language)
    assert (result.outcome, result.signal, result.exit_code) == ("signal", "SIGSEGV", None)


async def test_endless_recursion_in_python_fails_the_program(cell: Run) -> None:
    """21."""
    result = await cell("def f(): f()\nf()")
    assert (result.outcome, result.exit_code) == ("error", 1)
    assert "RecursionError" in result.stderr.text
    assert (await cell("1 + 1")).value == "2"


async def test_reading_the_whole_image_leaves_the_neighbour_its_latency(run: Run, cell: Run) -> None:
    """22. Cache pages are charged to the reader, whose limit makes it drop its own."""
    await cell("ready = True")
    reading = anyio.Event()
    results = []

    async def read() -> None:
        code = """
print("reads", flush=True)
while True:
    for root, _, names in os.walk("/usr"):
        for name in names:
            try:
                with open(f"{root}/{name}", "rb") as file:
                    while file.read(1 << 20): pass
            except OSError: pass
"""
        results.append(await run(code, wall=2, on_output=lambda _: reading.set()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await reading.wait()
        latencies = []
        for _ in range(5):
            begin = time.monotonic()
            assert (await cell("print(ready)")).stdout.text == "True\n"
            latencies.append(time.monotonic() - begin)
    assert sorted(latencies)[2] < 0.3
    assert results[0].outcome == "timeout"
    assert results[0].usage.peak_memory <= LIMITS.memory


async def test_kernel_objects_are_bounded_by_open_files(cell: Run) -> None:
    """23."""
    code = f"""
import resource
def hoard(make):
    kept = []
    try:
        while len(kept) < 10_000: kept.append(make())
        reason = "allowed"
    except OSError as error:
        reason = errno.errorcode[error.errno]
    for fd in kept: os.close(fd)
    return f"{{reason}} {{len(kept) <= {LIMITS.open_files}}}"
def checked(fd):
    if fd == -1: raise OSError(ctypes.get_errno(), "")
    return fd
import select
for make in (lambda: checked(libc.epoll_create1(0)), lambda: os.eventfd(0), lambda: checked(libc.timerfd_create(1, 0)),
             lambda: checked(libc.inotify_init1(0)), lambda: os.memfd_create("x"), lambda: os.pidfd_open(os.getpid())):
    print(hoard(make))
"""
    result = await cell(code)
    answers = result.stdout.text.splitlines()
    assert len(answers) == 6
    assert set(answers) == {"EMFILE True"}
    assert (await cell("print('alive')")).stdout.text == "alive\n"


async def test_pipe_buffers_are_bounded(run: Run) -> None:
    """23."""
    code = """
import fcntl
held = 0
try:
    while True:
        _, end = os.pipe()
        os.set_blocking(end, False)
        try: fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
        except PermissionError: pass
        try:
            while True: held += os.write(end, bytes(65536))
        except BlockingIOError: pass
except OSError as error:
    print(errno.errorcode[error.errno], held >> 20 <= 128)
"""
    result = await run(code)
    assert (result.outcome, result.stdout.text) == ("ok", "EMFILE True\n")
