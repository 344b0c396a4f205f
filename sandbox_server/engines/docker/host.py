"""What the engine's host is and which limits it can't apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_server.engines.base import EngineInfo

FIXES = {
    "memory": "boot with the memory control group enabled (cgroup_enable=memory)",
    "swap": "boot with swapaccount=1, or turn swap off (swapoff -a)",
    "cpu": "use a kernel with CONFIG_CFS_BANDWIDTH; rootless engines need the cpu controller delegated",
    "pids": "use a kernel with CONFIG_CGROUP_PIDS; rootless engines need the pids controller delegated",
    "seccomp": "use an engine and a kernel that are built with seccomp",
}


@dataclass(frozen=True, slots=True)
class Host:
    """What `docker info` says, as far as we go by it. `memory` in bytes."""

    info: EngineInfo
    cgroup_driver: str
    cgroup_version: str
    cpus: int
    memory: int


def read_host(info: Mapping[str, Any], version: Mapping[str, Any], *, local: bool) -> Host:
    """Understand the engine's own description. `local`: it runs on this very machine."""
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    cgroup_version = str(info.get("CgroupVersion") or "1")
    facts = {
        "api_version": str(version.get("ApiVersion", "")),
        "architecture": str(info.get("Architecture", "")),
        "cgroup_driver": str(info.get("CgroupDriver", "")),
        "cgroup_version": cgroup_version,
        "cpus": str(info.get("NCPU", "")),
        "default_runtime": str(info.get("DefaultRuntime", "")),
        "kernel": str(info.get("KernelVersion", "")),
        "memory_bytes": str(info.get("MemTotal", "")),
        "operating_system": str(info.get("OperatingSystem", "")),
        "runc_version": str((info.get("RuncCommit") or {}).get("ID", "")),
        "containerd_version": str((info.get("ContainerdCommit") or {}).get("ID", "")),
        "root_dir": str(info.get("DockerRootDir", "")),
        "security_options": ", ".join(security),
        "storage_driver": str(info.get("Driver", "")),
    }
    for component in version.get("Components") or ():
        if component.get("Name") in ("runc", "containerd"):
            facts[f"{component['Name']}_version"] = str(component.get("Version", ""))
    if "runsc" in (info.get("Runtimes") or ()):
        # Found by trying, with release 20221219. Bounded all the same, so not `missing`.
        facts["runsc_limits"] = (
            "inodes are bounded by memory alone; a sandbox that exceeds memory or pids is lost as a whole"
        )
    found = EngineInfo(
        name="docker",
        version=str(version.get("Version", "")),
        runtimes=frozenset(info.get("Runtimes") or ()),
        missing=find_missing(info, security, has_swap=_has_swap() if local else True),
        facts=facts,
    )
    return Host(
        info=found,
        cgroup_driver=facts["cgroup_driver"],
        cgroup_version=cgroup_version,
        cpus=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
    )


def find_missing(info: Mapping[str, Any], security: list[str], *, has_swap: bool) -> dict[str, str]:
    """Limits that this host would drop, each with the reason."""
    missing: dict[str, str] = {}
    if not info.get("MemoryLimit"):
        missing["memory"] = "the host has no memory control group"
    # What swap accounting does for us is to forbid swapping. Without any swap there is nothing
    # to forbid, and the memory limit alone is the whole limit.
    if not info.get("SwapLimit") and has_swap:
        missing["swap"] = "the host has swap but does not account for it, so memory limits can be exceeded"
    if not info.get("CpuCfsQuota"):
        missing["cpu"] = "the host can't apply CPU quotas"
    if not info.get("PidsLimit"):
        missing["pids"] = "the host has no pids control group"
    if not any(option.startswith("name=seccomp") for option in security):
        missing["seccomp"] = "the engine does not support seccomp"
    return missing


def _has_swap() -> bool:
    try:
        return len(Path("/proc/swaps").read_text(encoding="ascii").splitlines()) > 1
    except OSError:
        return True
