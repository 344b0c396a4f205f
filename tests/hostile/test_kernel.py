"""Programs that attack the kernel and its interfaces. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import pytest

from tests.hostile.conftest import Run
from tests.hostile.lab import PREAMBLE, TROUBLE, kernel_log

# name: (number on x86_64, on aarch64, arguments)
NAMESPACES = {
    "unshare user": (272, 97, [0x10000000]),
    "unshare mount": (272, 97, [0x00020000]),
    "unshare net": (272, 97, [0x40000000]),
    "unshare pid": (272, 97, [0x20000000]),
    "unshare ipc": (272, 97, [0x08000000]),
    "unshare uts": (272, 97, [0x04000000]),
    "unshare cgroup": (272, 97, [0x02000000]),
    "unshare time": (272, 97, [0x00000080]),
    "clone user": (56, 220, [0x10000000 | 17, 0, 0, 0, 0]),
    "clone net": (56, 220, [0x40000000 | 17, 0, 0, 0, 0]),
    "clone mount and user": (56, 220, [0x10020000 | 17, 0, 0, 0, 0]),
    "clone3": (435, 435, [0, 0]),
    "setns": (308, 268, [0, 0]),
    "mount": (165, 40, [0, 0, 0, 0, 0]),
    "umount2": (166, 39, [0, 0]),
    "pivot_root": (155, 41, [0, 0]),
    "chroot": (161, 51, [0]),
    "open_tree": (428, 428, [0, 0, 0]),
    "move_mount": (429, 429, [0, 0, 0, 0, 0]),
    "fsopen": (430, 430, [0, 0]),
    "fsmount": (432, 432, [0, 0, 0]),
    "fspick": (433, 433, [0, 0, 0]),
    "mount_setattr": (442, 442, [0, 0, 0, 0, 0]),
    "open_by_handle_at": (304, 265, [0, 0, 0]),
    "name_to_handle_at": (303, 264, [0, 0, 0, 0, 0]),
}
POWERS = {
    "add_key": (248, 217, [0, 0, 0, 0, 0]),
    "request_key": (249, 218, [0, 0, 0, 0]),
    "keyctl": (250, 219, [0, 0, 0, 0, 0]),
    "bpf": (321, 280, [0, 0, 0]),
    "perf_event_open": (298, 241, [0, 0, 0, 0, 0]),
    "userfaultfd": (323, 282, [0]),
    "kexec_load": (246, 104, [0, 0, 0, 0]),
    "kexec_file_load": (320, 294, [0, 0, 0, 0, 0]),
    "init_module": (175, 105, [0, 0, 0]),
    "finit_module": (313, 273, [0, 0, 0]),
    "delete_module": (176, 106, [0, 0]),
    "swapon": (167, 224, [0, 0]),
    "swapoff": (168, 225, [0]),
    "reboot": (169, 142, [0xFEE1DEAD, 672274793, 0x01234567, 0]),
    "quotactl": (179, 60, [0, 0, 0, 0]),
    "io_uring_setup": (425, 425, [8, 0]),
    "io_uring_enter": (426, 426, [0, 0, 0, 0, 0, 0]),
    "io_uring_register": (427, 427, [0, 0, 0, 0]),
    "acct": (163, 89, [0]),
    "syslog": (103, 116, [3, 0, 0]),
    "sethostname": (170, 161, [0, 0]),
    "setdomainname": (171, 162, [0, 0]),
    "clock_settime": (227, 112, [0, 0]),
    "fanotify_init": (300, 262, [0, 0]),
    "ptrace": (101, 117, [0, 0, 0, 0]),
    "personality": (135, 92, [0x0040000]),
    "move_pages": (279, 239, [1, 0, 0, 0, 0, 0]),
    "migrate_pages": (256, 238, [1, 0, 0, 0]),
    "vhangup": (153, 58, []),
    "lookup_dcookie": (212, 18, [0, 0, 0]),
    "memfd_secret": (447, 447, [0]),
    "process_madvise": (440, 440, [0, 0, 0, 0, 0]),
}


async def answers(probe: Run, calls: dict[str, tuple[int, int, list[int]]]) -> dict[str, str]:
    code = f"""
column = 0 if os.uname().machine == "x86_64" else 1
for name, row in {calls!r}.items():
    print(name, "=", call("syscall", row[column], *map(ctypes.c_uint64, row[2])))
"""
    lines = (await probe(code)).stdout.text.splitlines()
    return dict(line.split(" = ") for line in lines)


async def test_no_namespace_mount_or_root_can_be_made_or_changed(probe: Run) -> None:
    """68."""
    found = await answers(probe, NAMESPACES)
    assert found.pop("clone3") == "ENOSYS"
    assert found == dict.fromkeys(NAMESPACES.keys() - {"clone3"}, "EPERM")


async def test_no_power_over_the_kernel_is_given(probe: Run) -> None:
    """69."""
    found = await answers(probe, POWERS)
    assert found.keys() == POWERS.keys()
    assert {name: answer for name, answer in found.items() if answer not in ("EPERM", "ENOSYS")} == {}


async def test_a_process_has_no_capability_and_gains_none(probe: Run) -> None:
    """70."""
    code = """
import subprocess
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines())
print(*(status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")), status["NoNewPrivs"], status["Seccomp"])
print(attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.setgroups, [0]), attempt(os.setresuid, -1, 0, 0))
for uid in 10000, os.getuid() + 1: print(attempt(os.setuid, uid))
print(call("prctl", 47, 2, 21, 0, 0), call("prctl", 38, 0, 0, 0, 0), call("prctl", 23, 0, 0, 0, 0))
for program in "su", "sudo", "ping", "newgrp", "passwd", "mount", "umount", "chsh", "pkexec":
    found = [f"{d}/{program}" for d in ("/bin", "/usr/bin", "/sbin", "/usr/sbin") if os.path.exists(f"{d}/{program}")]
    for path in found:
        print(program, os.stat(path).st_mode & 0o6000, os.listxattr(path))
print(os.getuid() >= 10000, os.getgid() >= 10000, os.getgroups() in ([], [os.getgid()]))
"""
    status, changes, *rest = (await probe(code)).stdout.text.splitlines()
    assert status.split() == ["0000000000000000"] * 5 + ["1", "2"]
    assert changes.split() == ["EPERM"] * 4
    assert rest[:2] == ["EPERM", "EPERM"]
    assert set(rest[2].split()) <= {"EPERM", "EINVAL", "allowed"}
    assert rest[2].split()[0] != "allowed"
    assert [line for line in rest[3:-1] if not line.endswith("0 []")] == []
    assert rest[-1] == "True True True"


async def test_no_known_way_from_a_file_to_the_host_is_open(probe: Run) -> None:
    """71."""
    code = """
import glob
paths = [*glob.glob("/sys/fs/cgroup/*/release_agent"), *glob.glob("/sys/fs/cgroup/*/notify_on_release"),
         *glob.glob("/sys/fs/cgroup/*/cgroup.procs"), *glob.glob("/sys/fs/cgroup/*/*.limit_in_bytes"),
         *glob.glob("/sys/fs/cgroup/cgroup.*"), *glob.glob("/sys/fs/cgroup/*.max"),
         *glob.glob("/sys/fs/cgroup/*/pids.max"), *glob.glob("/sys/fs/cgroup/devices/devices.allow"),
         *glob.glob("/sys/fs/cgroup/freezer/freezer.state")]
print(len(paths) > 5)
paths += ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/sys/kernel/uevent_helper",
          "/proc/sys/fs/binfmt_misc/register", "/proc/sys/kernel/hotplug", "/proc/sys/vm/drop_caches",
          "/proc/sys/kernel/panic", "/proc/sys/net/ipv4/ip_forward", "/proc/irq/0/smp_affinity", "/proc/bus/pci",
          "/sys/power/state", "/sys/bus/pci/rescan", "/sys/class/net/lo/mtu", "/proc/self/uid_map", "/proc/mtrr"]
for path in paths:
    print(path, attempt(lambda: os.write(os.open(path, os.O_WRONLY), b"1")))
print("cgroup", attempt(os.mkdir, "/sys/fs/cgroup/x"), attempt(os.mkdir, "/sys/fs/cgroup/memory/x"))
"""
    some, *lines = (await probe(code)).stdout.text.splitlines()
    assert some == "True"
    refused = {"EROFS", "EACCES", "EPERM", "ENOENT", "EISDIR"}
    assert [line for line in lines if not set(line.split()[1:]) <= refused] == []


async def test_what_tells_of_the_kernel_and_the_machine_is_masked(probe: Run) -> None:
    """72."""
    code = """
for path in ("/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug", "/proc/kallsyms",
             "/proc/modules", "/proc/slabinfo", "/proc/iomem", "/proc/interrupts", "/proc/latency_stats", "/proc/kpageflags",
             "/proc/config.gz", "/proc/vmallocinfo", "/proc/locks", "/proc/diskstats", "/proc/partitions", "/proc/swaps",
             "/proc/kmsg", "/proc/kpagecgroup", "/proc/timer_stats", "/proc/zoneinfo", "/proc/softirqs",
             "/sys/firmware", "/sys/kernel", "/sys/devices/virtual/powercap", "/sys/devices/virtual/dmi",
             "/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing"):
    try:
        content = os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(100)
    except OSError as error:
        content = errno.errorcode[error.errno]
    print(path, content or "empty")
addresses = [line.split()[0] for line in open("/proc/self/stat")]
print("wchan", open("/proc/self/wchan").read(), attempt(lambda: os.read(os.open("/proc/self/pagemap", 0), 8)))
"""
    *lines, own = (await probe(code)).stdout.text.splitlines()
    assert len(lines) == 33
    nothing = {"empty", "ENOENT", "EACCES", "EPERM"}
    assert [line for line in lines if line.split(maxsplit=1)[1] not in nothing] == []
    assert own.split()[1] == "0"


FUZZER = """
import random, struct
generator = random.Random(int(sys.argv[1]))
skip = set(SKIPPED[os.uname().machine == "x86_64"])
pages = [ctypes.create_string_buffer(generator.randbytes(4096), 4096) for _ in range(4)]
def argument():
    return generator.choice((
        lambda: 0, lambda: 1, lambda: -1, lambda: generator.randrange(64), lambda: generator.getrandbits(64),
        lambda: 1 << generator.randrange(64), lambda: generator.randrange(-4096, 0), lambda: generator.randrange(3, 32),
        lambda: ctypes.addressof(generator.choice(pages)), lambda: ctypes.addressof(pages[0]) + generator.randrange(4096),
        lambda: 0x7FFFFFFFF000, lambda: 0xFFFFFFFF81000000, lambda: generator.choice((4096, 65536, 1 << 20, 1 << 31))))()
done = 0
signal.signal(signal.SIGALRM, signal.SIG_DFL)
while True:
    number = generator.randrange(470) if generator.random() < 0.97 else generator.getrandbits(32)
    if number in skip: continue
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    libc.syscall(ctypes.c_long(number), *(ctypes.c_uint64(argument() & (1 << 64) - 1) for _ in range(6)))
    done += 1
    if done % 20 == 0: os.write(1, b".")
"""
# What only ends, stops or blinds the fuzzer itself: exit, signals to all, stopping calls, closing its output.
SKIPPED = {
    True: [
        0,
        3,
        15,
        32,
        33,
        34,
        35,
        60,
        62,
        130,
        200,
        231,
        234,
        292,
        317,
        424,
        436,
        9,
        10,
        11,
        12,
        13,
        14,
        25,
        56,
        57,
        58,
    ],
    False: [
        63,
        57,
        139,
        93,
        94,
        129,
        130,
        131,
        133,
        277,
        424,
        436,
        24,
        215,
        222,
        226,
        214,
        134,
        135,
        216,
        220,
    ],
}


async def test_ten_seconds_of_random_system_calls_leave_the_host_clean(cell: Run, run: Run) -> None:
    """73. Crashes of the fuzzer are part of it: a shell starts the next one, each with its own fixed seed."""
    before = set(kernel_log())
    source = f"SKIPPED = {SKIPPED!r}\n{PREAMBLE}{FUZZER}"
    starter = f"""
cat > fuzz.py <<'END'
{source}
END
seed=0
while :; do
    for lane in 1 2 3 4; do seed=$((seed + 1)); timeout -s KILL 2 python3 -S fuzz.py $seed 2>/dev/null & done
    wait
done
"""
    result = await cell(starter, "sh", wall=10)
    assert (result.outcome, result.limit) == ("timeout", "wall")
    assert result.stdout.total_bytes > 20  # a byte for every 20 calls
    after = await cell("echo alive", "sh")
    assert after.stdout.text == "alive\n"
    assert (await run("print('alive')")).stdout.text == "alive\n"
    new = [line for line in kernel_log() if line not in before]
    assert [line for line in new if TROUBLE.search(line) and "traps:" not in line] == []


@pytest.mark.parametrize("path", ["/dev/kmsg"])
async def test_the_kernel_log_can_be_read_by_these_tests(path: str) -> None:
    """73. Otherwise the test above would prove nothing."""
    assert kernel_log()
