"""Programs that attack disks and files. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sandbox_server.engines.profile import MIB
from sandbox_server.execution.models import InputFile
from tests.hostile.conftest import Run
from tests.hostile.lab import LIMITS, Lab

WRITERS = {
    "python": (
        "python",
        "with open('big', 'wb', 0) as file:\n    while True: file.write(bytes(1 << 20))",
        "disk_full",
    ),
    "fallocate": (
        "python",
        "os.posix_fallocate(os.open('big', os.O_CREAT | os.O_RDWR), 0, 10 << 30)",
        "error",
    ),
    "many files": ("bash", "for i in $(seq 200); do head -c 1M /dev/zero > $i || exit 7; done", "disk_full"),
}


@pytest.mark.parametrize(("language", "code", "outcome"), WRITERS.values(), ids=WRITERS)
async def test_ten_gigabytes_end_at_the_workspaces_size(
    run: Run, language: str, code: str, outcome: str
) -> None:
    """32."""
    before = shutil.disk_usage("/").used
    result = await run(code, language, wall=10)
    assert result.outcome == outcome
    assert result.exit_code not in (0, None)
    assert result.usage.peak_memory is not None
    assert result.usage.peak_memory < LIMITS.workspace + 64 * MIB
    # Others use this disk as well; 10 GB would show.
    assert shutil.disk_usage("/").used - before < 5000 * MIB


async def test_a_full_disk_is_blamed_for_what_it_causes_only(cell: Run) -> None:
    """32. What is full when a program has ended need not be why it failed, nor the other way round."""
    failing = "with open('/dev/shm/x', 'wb', 0) as file:\n    while True: file.write(bytes(1 << 20))"
    cleaning = f"try:\n    {failing.replace(chr(10), chr(10) + '    ')}\nfinally: os.remove('/dev/shm/x')"
    assert (await cell(cleaning)).outcome == "disk_full"
    assert (await cell(failing)).outcome == "disk_full"
    assert (await cell("sys.exit(3)")).outcome == "error"
    assert (await cell("exit 3", "sh")).outcome == "error"
    assert (await cell("open('/dev/shm/y', 'wb', 0).write(bytes(1 << 20))")).outcome == "disk_full"


async def test_nothing_that_can_be_written_lies_on_a_disk(cell: Run, lab: Lab, mark: str) -> None:
    """32. By the host's own view of the sandbox's mounts."""
    mounts: list[list[str]] = []

    def look(_: object) -> None:
        [process] = lab.named(mark)
        mounts.extend(line.split() for line in Path(f"/proc/{process.pid}/mounts").read_text().splitlines())

    await cell(f"rename({mark!r})\nprint('here', flush=True)\ntime.sleep(0.2)", on_output=look)
    writable = {(kind, where) for _, where, kind, options, *_ in mounts if options.split(",")[0] == "rw"}
    assert ("tmpfs", "/workspace") in writable
    assert {kind for kind, _ in writable} <= {"tmpfs", "proc", "devpts", "mqueue"}
    for _, where, _kind, options, *_ in mounts:
        if where in ("/workspace", "/tmp", "/dev/shm"):
            assert {"nosuid", "nodev"} <= set(options.split(","))


async def test_a_sparse_file_can_not_claim_a_terabyte(probe: Run) -> None:
    """33."""
    code = """
fd = os.open("sparse", os.O_CREAT | os.O_RDWR)
print(attempt(os.ftruncate, fd, 1 << 40), attempt(os.pwrite, fd, b"x", 1 << 40))
os.unlink("sparse")
"""
    assert (await probe(code)).stdout.text == "EFBIG EFBIG\n"


CROWDS = {
    "files": "for i in range(10 ** 6): os.close(os.open(f'/tmp/{i}', os.O_CREAT))",
    "long names": "for i in range(10 ** 6): os.close(os.open(f'/tmp/{i:0255}', os.O_CREAT))",
    "directories": "for i in range(10 ** 6): os.mkdir(f'/workspace/{i}')",
    "links": "open('/tmp/x', 'w')\nfor i in range(10 ** 6): os.link('/tmp/x', f'/tmp/{i}')",
    "depth": "os.chdir('/tmp')\nfor i in range(10 ** 6): os.mkdir('d' * 200); os.chdir('d' * 200)",
}


@pytest.mark.parametrize("code", CROWDS.values(), ids=CROWDS)
async def test_a_crowd_of_files_ends_at_the_inode_limit_and_is_quickly_gone(
    run: Run, lab: Lab, code: str, mark: str
) -> None:
    """34."""
    result = await run(code, wall=10)
    assert (result.outcome, result.limit) == ("disk_full", "disk")
    assert "No space left on device" in result.stderr.text
    assert result.usage.peak_memory is not None
    assert result.usage.peak_memory < LIMITS.memory // 2


async def test_a_session_full_of_files_is_gone_within_seconds(lab: Lab, mark: str) -> None:
    """34."""
    code = f"for i in range(15_000): os.close(os.open(f'/workspace/{{i}}', os.O_CREAT))\nrename({mark!r})"
    assert (await lab.run(code, connection=mark)).outcome == "ok"
    [interpreter] = lab.named(mark)
    assert lab.holds(interpreter.sandbox)
    await lab.manager.close_connection(mark)
    await lab.until(lambda: not lab.holds(interpreter.sandbox), 5)


async def test_nothing_but_its_own_directories_can_be_written(probe: Run) -> None:
    """35."""
    code = """
for path in ("/x", "/etc/x", "/usr/x", "/opt/sandbox/x", "/root/x", "/var/x", "/home/x", "/run/x", "/dev/x", "/sys/x",
             "/proc/x", "/etc/passwd", "/opt/sandbox/runner.py", "/usr/bin/python3", "/etc/hostname",
             "/etc/resolv.conf", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory",
             "/proc/sys/kernel/hostname", "/sys/fs/cgroup/x", "/sys/power/state", "/sys/block/x"):
    for name, function in (("write", lambda path: open(path, "r+b")), ("create", lambda path: open(path, "xb"))):
        print(path, name, attempt(function, path))
for directory in "/", "/etc", "/usr/bin", "/opt/sandbox", "/dev", "/sys":
    print(directory, "mkdir", attempt(os.mkdir, directory + "/x"))
    print(directory, "rename", attempt(os.rename, directory, "/workspace/x"))
print("/usr/bin/python3", "unlink", attempt(os.unlink, "/usr/bin/python3"))
print("/usr/bin/python3", "chmod", attempt(os.chmod, "/usr/bin/python3", 0o777))
print("/usr/bin/python3", "chown", attempt(os.chown, "/usr/bin/python3", os.getuid(), -1))
"""
    lines = (await probe(code)).stdout.text.splitlines()
    assert len(lines) == 59
    refused = {"EROFS", "EACCES", "EPERM", "ENOENT", "EEXIST", "EXDEV", "EBUSY"}
    assert [line for line in lines if line.split()[-1] not in refused] == []
    assert "/etc/x create EROFS" in lines


async def test_special_files_give_no_power(probe: Run) -> None:
    """36."""
    code = """
import shutil, socket, stat, subprocess
shutil.copy("/bin/bash", "bash")
os.chmod("bash", 0o6755)
print(subprocess.run(["./bash", "-pc", "echo $EUID"], capture_output=True, text=True).stdout.strip() == str(os.getuid()))
for kind in stat.S_IFCHR, stat.S_IFBLK:
    for device in (1, 1), (1, 11), (8, 0), (254, 0):
        print(attempt(os.mknod, "device", kind | 0o600, os.makedev(*device)))
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
print(sorted(os.listdir()))
for name in os.listdir(): os.unlink(name)
"""
    lines = (await probe(code)).stdout.text.splitlines()
    assert lines == ["True", *["EPERM"] * 8, "['bash', 'fifo', 'socket']"]


@pytest.mark.parametrize("language", ["python", "javascript", "bash"])
async def test_the_images_hold_nothing_that_raises_privileges(run: Run, language: str) -> None:
    """36, 70."""
    code = {
        "bash": "find / -xdev '(' -perm /6000 -o -nouser -o -writable -type f ')' 2>/dev/null | grep -v ^/proc",
        "javascript": """
const fs = require('fs'), found = [];
(function walk(d) { for (const e of fs.readdirSync(d, { withFileTypes: true })) {
    const p = d + '/' + e.name;
    if (['/./proc', '/./sys', '/./dev'].includes(p)) continue;
    try { if (e.isDirectory()) walk(p); else if (fs.lstatSync(p).mode & 0o6000) console.log(p); } catch {}
} })('/.');""",
        "python": """
for root, directories, names in os.walk("/"):
    directories[:] = [d for d in directories if root != "/" or d not in ("proc", "sys", "dev")]
    for name in names:
        path = f"{root}/{name}"
        if os.lstat(path).st_mode & 0o6000 or "security.capability" in os.listxattr(path, follow_symlinks=False):
            print(path)
""",
    }[language]
    result = await run(code, language, wall=15)
    assert (result.stdout.text, result.outcome) == ("", "error" if language == "bash" else "ok")


async def test_attributes_hold_up_neither_the_run_nor_its_removal(run: Run, lab: Lab) -> None:
    """37."""
    code = """
import fcntl, struct
fd = os.open("x", os.O_CREAT | os.O_RDWR)
immutable_and_append_only = struct.pack("l", 0x30)
print(attempt(fcntl.ioctl, fd, 0x40086602, immutable_and_append_only))
print(attempt(os.setxattr, "x", "trusted.x", b"1"), attempt(os.setxattr, "x", "security.capability", b"1"))
bomb = 0
try:
    while bomb < 10 ** 5:
        os.setxattr("x", f"user.{bomb}", bytes(60_000))
        bomb += 1
except OSError as error:
    print(errno.errorcode[error.errno] in ("ENOSPC", "EOPNOTSUPP", "E2BIG", "ENOMEM"))
os.chmod("/workspace", 0)
os.chmod("/tmp", 0) if os.access("/tmp", os.W_OK) and os.stat("/tmp").st_uid == os.getuid() else None
"""
    before = lab.memory()  # of sandboxes that wait, and of what other tests have left open
    result = await run(code, wall=5)
    answers = result.stdout.text.split()
    assert set(answers[:3]) <= {"EPERM", "EOPNOTSUPP", "ENOTTY", "EINVAL"}
    assert answers[3:] == ["True"] or result.outcome == "out_of_memory"
    await lab.until(lambda: lab.memory() < before + LIMITS.memory // 2, 30)


async def test_space_of_a_file_that_a_process_holds_open_comes_back_with_its_death(cell: Run) -> None:
    """38."""
    holder = """
if os.fork() == 0:
    with open("held", "wb") as file:
        os.unlink("held")
        file.write(bytes(60 << 20))
        file.flush()
        os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(1000)
signal.sigwait([signal.SIGUSR1])
space = os.statvfs("/workspace")
print(space.f_bavail * space.f_frsize >> 20 < 8)
"""
    code = f"signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n{holder}"
    assert (await cell(code)).stdout.text == "True\n"
    after = await cell("print(open('again', 'wb').write(bytes(60 << 20)) >> 20)")
    assert (after.stdout.text, after.session.state) == ("60\n", "kept")


async def test_devices_are_the_harmless_ones(probe: Run) -> None:
    """39."""
    code = """
print(*sorted(os.listdir("/dev")))
print(attempt(os.write, os.open("/dev/full", os.O_WRONLY), b"x"), len(open("/dev/zero", "rb", 0).read(1 << 20)))
print(len(os.read(os.open("/dev/random", 0), 256)), len(os.read(os.open("/dev/urandom", 0), 256)))
for name in "kmsg", "mem", "kmem", "port", "sda", "vda", "kvm", "fuse", "net/tun", "tty", "console", "vsock", "snd":
    print(attempt(os.open, f"/dev/{name}", os.O_RDWR))
"""
    devices, full, random, *absent = (await probe(code)).stdout.text.splitlines()
    assert set(devices.split()) <= {
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero", "core",
    }  # fmt: skip
    assert (full, random) == ("ENOSPC 1048576", "256 256")
    assert set(absent) <= {"ENOENT", "ENXIO"}


TRAPS = {
    "full": "head -c 64M /dev/zero > /tmp/full",
    "no inodes": "i=0; while : > /tmp/f$i; do i=$((i+1)); done",
    "fifo": "rm -rf /tmp/.sandbox; mkdir -p /tmp/.sandbox; mkfifo /tmp/.sandbox/main.sh",
    "directory": "rm -rf /tmp/.sandbox; mkdir -p /tmp/.sandbox/main.sh",
    "link to a directory": "rm -rf /tmp/.sandbox; ln -s /usr/bin /tmp/.sandbox",
    "link to a file": "rm -rf /tmp/.sandbox; mkdir /tmp/.sandbox; ln -s /workspace/victim /tmp/.sandbox/main.sh",
    "loop": "rm -rf /tmp/.sandbox; ln -s .sandbox /tmp/.sandbox",
    "locked out": "chmod 0 /workspace",
}


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
async def test_a_trap_for_the_sessions_next_program_fails_that_program_and_says_why(
    cell: Run, trap: str
) -> None:
    """32, 36."""
    await cell(trap, "sh")
    result = await cell("echo ran", "sh", wall=2)
    if (result.outcome, result.stdout.text) != ("ok", "ran\n"):
        assert result.outcome in ("error", "disk_full")
        assert result.exit_code == 126
        assert result.stderr.text.startswith("sandbox: ")
    healed = await cell("os.chmod('/workspace', 0o700); import shutil; os.chdir('/tmp')\n"
                        "for name in os.listdir(): shutil.rmtree(name) if os.path.isdir(name) "
                        "and not os.path.islink(name) else os.unlink(name)")  # fmt: skip
    assert healed.outcome == "ok"
    assert (await cell("echo ran", "sh")).stdout.text == "ran\n"


async def test_a_file_that_is_put_where_a_fifo_waits_does_not_hang(cell: Run) -> None:
    """36."""
    await cell("os.mkfifo('trap'); os.symlink('/usr/bin/python3', 'link'); os.mkdir('directory')")
    for name in "trap", "link", "directory":
        with pytest.raises(Exception, match="can't be written"):
            await cell("pass", files=(InputFile(name, b"x" * 100_000),))
    assert (await cell("print('alive')")).stdout.text == "alive\n"
