"""What of code execution a role has: languages, limits, runtime, packages; ceilings; deployment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints

from sandbox_server.engines.profile import Runtime
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.jobs import MOST_FILES
from sandbox_server.policy.schema.base import (
    GIB,
    Count,
    Cpu,
    Cpus,
    Duration,
    Kept,
    Memory,
    ModuleName,
    Name,
    Pids,
    Size,
    Strict,
    Tmpfs,
    Wall,
)
from sandbox_server.policy.units import Share, budget_text, parse_budget

_BUILT_IN = Sizing()

PackageGlob = Annotated[str, StringConstraints(pattern=r"^@?[A-Za-z0-9*][A-Za-z0-9*._/-]{0,127}$")]


class Ceilings(Strict):
    """The most that any role may grant, and a caller ask for: `wall`, `cpu` and `output` of a run, the
    others of a session; `concurrent` of one principal's runs. Without `cpus` a session may have what its
    language has."""

    wall: Wall = 60.0
    cpu: Cpu = 60.0
    memory: Memory = 1 * GIB
    pids: Pids = 256
    output: Kept = 4 * 1024**2
    workspace: Tmpfs = 256 * 1024**2
    cpus: Cpus | None = None
    concurrent: Annotated[int, Field(ge=0, le=100_000)] | None = None


class Limits(Strict):
    """What a sandbox and a run in it get. An absent one is inherited: language, defaults, built in."""

    wall: Wall | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    cpus: Cpus | None = None
    pids: Pids | None = None
    output: Kept | None = None
    output_total: Annotated[Size, Field(ge=1024, le=64 * GIB)] | None = None
    workspace: Tmpfs | None = None
    inodes: Annotated[Count, Field(ge=64, le=16 * 1024**2)] | None = None
    tmp: Tmpfs | None = None
    shm: Tmpfs | None = None
    open_files: Annotated[Count, Field(ge=64, le=1024**2)] | None = None
    file_size: Annotated[Size, Field(ge=4096, le=1024 * GIB)] | None = None
    files_out: Annotated[Count, Field(ge=0, le=MOST_FILES)] | None = None


class LanguageRule(Limits):
    image: Name | None = None
    preload: tuple[ModuleName, ...] = ()


class Code(Strict):
    """`egress`: "none" or a name in `egress.profiles`. `packages`: globs of what may be installed. `reuse`: a
    caller's one-shot runs may follow each other in a scrubbed sandbox if it asks for that."""

    runtime: Runtime | None = None
    reuse: bool = False
    defaults: Limits = Limits()
    languages: dict[str, LanguageRule] = Field(default_factory=dict)
    seccomp: Literal["default", "strict"] | None = None
    egress: Name | None = None
    packages: tuple[PackageGlob, ...] = ()


class Deployment(Strict):
    """How much runs at once. The defaults are those of `Sizing`, which `sizing` gives."""

    warm: Annotated[int, Field(ge=0, le=256)] = _BUILT_IN.warm
    sandboxes: Annotated[int, Field(ge=1, le=4096)] = _BUILT_IN.sandboxes
    memory: Annotated[
        int | Share, BeforeValidator(parse_budget), PlainSerializer(budget_text, when_used="json")
    ] = _BUILT_IN.memory
    parallel_starts: Annotated[int, Field(ge=1, le=64)] = _BUILT_IN.parallel_starts
    queue: Annotated[int, Field(ge=1, le=100_000)] = _BUILT_IN.queue
    queue_wait: Annotated[Duration, Field(ge=0, le=3600)] = _BUILT_IN.queue_wait
    runs_per_principal: Annotated[int, Field(ge=1, le=100_000)] = _BUILT_IN.runs_per_principal
    sessions: Annotated[int, Field(ge=0, le=4096)] = _BUILT_IN.sessions
    sessions_per_principal: Annotated[int, Field(ge=0, le=4096)] = _BUILT_IN.sessions_per_principal
    session_hold: Annotated[Duration, Field(ge=0, le=7 * 24 * 3600)] = _BUILT_IN.session_hold
    session_idle: Annotated[Duration, Field(ge=1, le=7 * 24 * 3600)] = _BUILT_IN.session_idle
    session_ttl: Annotated[Duration, Field(ge=1, le=7 * 24 * 3600)] = _BUILT_IN.session_ttl
    store: Annotated[Size, Field(ge=0, le=1024 * GIB)] = _BUILT_IN.store
    store_ttl: Annotated[Duration, Field(ge=1, le=7 * 24 * 3600)] = _BUILT_IN.store_ttl

    def sizing(self, host_memory: int) -> Sizing:
        """Of a deployment on a host with this many bytes of memory."""
        memory = self.memory.of(host_memory) if isinstance(self.memory, Share) else self.memory
        return Sizing(**{**self.model_dump(), "memory": memory})
