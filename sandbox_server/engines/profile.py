"""What a sandbox is made from. A profile is frozen, hashable, and free of any caller's text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

KIB = 1024
MIB = 1024 * KIB

Runtime = Literal["runc", "runsc"]
Seccomp = Literal["default", "strict"]


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Hard limits of one sandbox, applied by the engine. Sizes in bytes.

    `memory` caps everything together: processes, page cache and both tmpfs, and is
    also the swap limit. `inodes` is per tmpfs: `workspace` gets all of them, `tmp` a quarter.
    """

    memory: int = 256 * MIB
    cpus: float = 1.0
    pids: int = 64
    workspace: int = 64 * MIB
    tmp: int = 32 * MIB
    shm: int = 16 * MIB
    inodes: int = 16 * 1024
    open_files: int = 256
    file_size: int = 64 * MIB


@dataclass(frozen=True, slots=True)
class Profile:
    """Image, limits, runtime and filter of system calls: what a warm pool is keyed by.

    `image` is the name of an image of ours ("python"), not an engine's reference.
    `preload` are modules that the Python runner imports before it is ready.
    `revision` is the policy revision that these limits come from. `seccomp`: "strict" lets through less,
    no network but AF_UNIX among it; gVisor answers system calls itself and does not look at it.
    """

    image: str
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    runtime: Runtime = "runc"
    preload: tuple[str, ...] = ()
    revision: str = "none"
    seccomp: Seccomp = "default"
