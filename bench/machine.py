"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.dockerapi import DockerApi


def describe(api: DockerApi) -> dict[str, Any]:
    """Facts for the head of a report: hardware, kernel, engine, and how busy it was just before."""
    info = api.json("GET", "/info")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": info["OperatingSystem"],
        "python": platform.python_version(),
        "docker": info["ServerVersion"],
        "cgroup": f"v{info.get('CgroupVersion', '1')}, {info['CgroupDriver']}",
        "storage": info["Driver"],
        "load": [round(value, 2) for value in os.getloadavg()],
        "busy": round(busy_share(0.5), 2),
        "commit": _commit(),
    }


def busy_share(seconds: float) -> float:
    """The share of all processors, 0 to 1, that others used during `seconds`: what to distrust a run by."""
    idle, total = _jiffies()
    time.sleep(seconds)
    idle_now, total_now = _jiffies()
    return 1 - (idle_now - idle) / max(1, total_now - total)


def _jiffies() -> tuple[int, int]:
    with Path("/proc/stat").open() as file:
        fields = [int(value) for value in file.readline().split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    root = Path(__file__).parent.parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
