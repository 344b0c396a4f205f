"""CPU time, peak memory and OOM kills of this sandbox, from its own cgroup where there is one.

gVisor shows no cgroup; there CPU time is summed over processes and the rest is unknown.
"""

import os
import resource

_V1 = "/sys/fs/cgroup/memory/memory.oom_control"
_V2 = "/sys/fs/cgroup/memory.events"


def _find():
    if os.access(_V2, os.R_OK) and os.access("/sys/fs/cgroup/cpu.stat", os.R_OK):
        return "cgroup-v2"
    if os.access(_V1, os.R_OK) and os.access("/sys/fs/cgroup/cpuacct/cpuacct.usage", os.R_OK):
        return "cgroup-v1"
    return "processes"


def _read(path):
    # Not open(): its text layer takes longer than the reading, and every run reads several of these.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 8192).decode("ascii", "replace")
    finally:
        os.close(fd)


def _field(text, name):
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


SOURCE = _find()


def cpu_us():
    """CPU time of everything in the sandbox so far, in microseconds."""
    if SOURCE == "cgroup-v2":
        return _field(_read("/sys/fs/cgroup/cpu.stat"), "usage_usec")
    if SOURCE == "cgroup-v1":
        return int(_read("/sys/fs/cgroup/cpuacct/cpuacct.usage")) // 1000
    return _cpu_of_processes()


def _cpu_of_processes():
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    tick = os.sysconf("SC_CLK_TCK")
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or entry == "1":
            continue
        try:
            fields = _read(f"/proc/{entry}/stat").rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(value) for value in fields[11:15]) / tick
    return int(total * 1_000_000)


def oom_kills():
    """How many processes the kernel has OOM-killed here, or 0 where that can't be known."""
    if SOURCE == "cgroup-v2":
        return _field(_read(_V2), "oom_kill") or 0
    if SOURCE == "cgroup-v1":
        return _field(_read(_V1), "oom_kill") or 0
    return 0


def memory():
    """What this sandbox holds now, in bytes, or 0 where that can't be known."""
    if SOURCE == "cgroup-v2":
        return int(_read("/sys/fs/cgroup/memory.current"))
    if SOURCE == "cgroup-v1":
        return int(_read("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
    return 0


def peak_memory():
    """The most memory this sandbox has held, in bytes, or None."""
    try:
        if SOURCE == "cgroup-v2":
            return int(_read("/sys/fs/cgroup/memory.peak"))
        if SOURCE == "cgroup-v1":
            return int(_read("/sys/fs/cgroup/memory/memory.max_usage_in_bytes"))
    except (OSError, ValueError):
        pass  # memory.peak came with Linux 5.19
    return None
