"""The one constructor of sandboxes: a frozen profile becomes the whole create payload.

No caller's text reaches it: a `Profile` holds numbers, the name of an image of ours (already
resolved to `image` here) and a policy revision, which only becomes a label. What is not
written here is the engine's default, so everything that could weaken a sandbox is written,
also where it repeats the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker.labels import make_labels
from sandbox_server.engines.profile import Profile

UIDS = range(10000, 10512)
"""Host uids that sandboxes run as, one per live container: several kernel limits are counted
per host uid, so two sandboxes with one uid could starve each other. The images name them `sandbox`."""

CPU_PERIOD = 100_000
"""Microseconds. A longer period would let a sandbox take a core for that long at a time."""

# The API replaces its default list by ours, so ours holds the default and more. Not masked:
# /sys/fs/cgroup (mounted read-only; the runner reads the sandbox's own OOM count and CPU use
# there, and language runtimes size their heaps by it), /proc/{cpuinfo,meminfo,stat,loadavg}
# (runtimes and psutil need them; what they tell of the host is documented), and
# /proc/version (uname(2) tells the same).
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",  # what the host was booted with, which may hold names and secrets of it
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/modules",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/proc/zoneinfo",
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def create_payload(
    profile: Profile,
    *,
    image: str,
    uid: int,
    owner: Owner,
    deadline: float,
    seccomp: str,
    cgroup_driver: str,
    cgroup_version: str,
    missing: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The body of the engine's create call, complete.

    `missing` names limits that the host can't apply and the operator chose to do without.
    """
    return {
        "Image": image,
        "User": f"{uid}:{uid}",
        "WorkingDir": "/workspace",
        "Hostname": "sandbox",
        "Domainname": "",
        "Env": _environment(profile),
        "Labels": make_labels(owner, profile, uid=uid, deadline=deadline),
        "NetworkDisabled": True,
        "Tty": False,
        "OpenStdin": True,
        # The runner reads the end of its stdin as "the server is gone" and exits.
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "ExposedPorts": {},
        "Volumes": {},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "StopTimeout": 0,
        "HostConfig": _host_config(profile, uid, owner, seccomp, cgroup_driver, cgroup_version, missing),
    }


def _host_config(
    profile: Profile,
    uid: int,
    owner: Owner,
    seccomp: str,
    cgroup_driver: str,
    cgroup_version: str,
    missing: frozenset[str],
) -> dict[str, Any]:
    security = ["no-new-privileges:true"]
    if "seccomp" not in missing:
        security.append(f"seccomp={seccomp}")
    return {
        **_closed_doors(),
        **_resources(profile, cgroup_version, missing),
        "Runtime": profile.runtime,
        "SecurityOpt": security,
        "CgroupParent": cgroup_parent(owner, cgroup_driver),
        "Tmpfs": _tmpfs(profile, uid),
    }


def _closed_doors() -> dict[str, Any]:
    """What no profile can change."""
    return {
        "Privileged": False,
        "CapAdd": [],
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "Binds": [],
        "Mounts": [],
        "VolumesFrom": [],
        "Devices": [],
        "DeviceRequests": [],
        "DeviceCgroupRules": [],
        "GroupAdd": [],
        "Links": [],
        "ExtraHosts": [],
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "Sysctls": {},
        "PortBindings": {},
        "PublishAllPorts": False,
        "StorageOpt": {},
        "MaskedPaths": list(MASKED_PATHS),
        "ReadonlyPaths": list(READONLY_PATHS),
        # json-file, the usual default, writes all output to the host's disk without a limit.
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        # No init: the runner is PID 1, and reaps.
        "Init": False,
        "OomKillDisable": False,
        # Before the host's daemons; the runner's children raise theirs further, to go first.
        "OomScoreAdj": 500,
    }


def _resources(profile: Profile, cgroup_version: str, missing: frozenset[str]) -> dict[str, Any]:
    limits = profile.limits
    resources: dict[str, Any] = {
        "Memory": limits.memory,
        # Equal to Memory: no swap at all. Left out, the engine would allow as much again.
        "MemorySwap": limits.memory,
        "CpuPeriod": 0,
        "CpuQuota": 0,
        # Stands for CpuQuota = cpus * 100 ms per period of 100 ms; the API takes one or the other.
        "NanoCpus": round(limits.cpus * 1_000_000_000),
        "PidsLimit": limits.pids,
        "ShmSize": limits.shm,
        "Ulimits": _ulimits(profile),
    }
    # cgroup v2 has no swappiness, and MemorySwap = Memory already forbids swapping there.
    if cgroup_version == "1":
        resources["MemorySwappiness"] = 0
    for limit, fields in _FIELDS_OF_LIMIT.items():
        if limit in missing:
            for field in fields:
                resources.pop(field, None)
    return resources


_TMP = "/tmp"  # noqa: S108 - a path in the sandbox, not on the host

_FIELDS_OF_LIMIT: Mapping[str, tuple[str, ...]] = {
    "memory": ("Memory", "MemorySwap", "MemorySwappiness"),
    "swap": ("MemorySwap", "MemorySwappiness"),
    "cpu": ("NanoCpus", "CpuPeriod", "CpuQuota"),
    "pids": ("PidsLimit",),
}


def _ulimits(profile: Profile) -> list[dict[str, Any]]:
    mib = 1024 * 1024
    limits = profile.limits
    table = {
        "core": (0, 0),  # a core would go to the host's core_pattern handler
        "fsize": (limits.file_size, limits.file_size),
        "memlock": (64 * 1024, 64 * 1024),
        "msgqueue": (0, 0),
        "nofile": (limits.open_files, limits.open_files),
        "rtprio": (0, 0),
        "sigpending": (128, 128),
        "stack": (8 * mib, 64 * mib),
    }
    # No nproc (the pids cgroup does it, per sandbox and not per uid) and no cpu (the runner does
    # it, per run and not per process).
    return [{"Name": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in table.items()]


def _tmpfs(profile: Profile, uid: int) -> dict[str, str]:
    # exec on both: compilers, native modules and virtual environments run what they write.
    common = "rw,nosuid,nodev,exec"
    limits = profile.limits
    owned = f"mode=0700,uid={uid},gid={uid}"
    return {
        "/workspace": f"{common},size={limits.workspace},nr_inodes={limits.inodes},{owned}",
        _TMP: f"{common},size={limits.tmp},nr_inodes={max(1, limits.inodes // 4)},mode=1777",
    }


def _environment(profile: Profile) -> list[str]:
    threads = str(max(1, int(profile.limits.cpus)))
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/workspace",
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": _TMP,
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": f"{_TMP}/.matplotlib",
        # These libraries start a thread per core of the *host*, which eats the pids limit.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return [f"{name}={value}" for name, value in environment.items()]


def cgroup_parent(owner: Owner, cgroup_driver: str) -> str:
    """The control group that holds this instance's sandboxes, for a cap on all of them together."""
    if cgroup_driver == "systemd":
        # In a slice's name '-' means "child of": sbx-a_b.slice lies in sbx.slice.
        return f"sbx-{owner.instance.replace('-', '_')}.slice"
    return f"/sbx-{owner.instance}"
