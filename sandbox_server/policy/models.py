"""The policy file as its author writes it, and what is made of it.

This version knows a subset of the schema. Keys in a model's `LATER` belong to the schema and
are refused all the same: a rule that is not enforced must not look as if it were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from sandbox_server.engines.profile import MIB, Runtime
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.policy.units import Share, parse_budget, parse_count, parse_duration, parse_size

GIB = 1024 * MIB
_BUILT_IN = Sizing()

Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Count = Annotated[int, BeforeValidator(parse_count)]

Wall = Annotated[Duration, Field(ge=0.1, le=24 * 3600)]
Cpu = Annotated[Duration, Field(ge=1, le=24 * 3600)]
Memory = Annotated[Size, Field(ge=32 * MIB, le=1024 * GIB)]
Pids = Annotated[Count, Field(ge=8, le=32768)]
Tmpfs = Annotated[Size, Field(ge=64 * 1024, le=1024 * GIB)]
Kept = Annotated[Size, Field(ge=1024, le=64 * MIB)]
ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]
RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    LATER: ClassVar[frozenset[str]] = frozenset()


class Ceilings(Strict):
    """The most that any role may grant, and a caller ask for: `wall`, `cpu` and `output` of a run, the
    others of a session. Without `cpus` a session may have what its language has."""

    LATER = frozenset({"concurrent"})

    wall: Wall = 60.0
    cpu: Cpu = 60.0
    memory: Memory = 1 * GIB
    pids: Pids = 256
    output: Kept = 4 * MIB
    workspace: Tmpfs = 256 * MIB
    cpus: Annotated[float, Field(ge=0.05, le=256)] | None = None


class Limits(Strict):
    """What a sandbox and a run in it get. An absent one is inherited: language, defaults, built in."""

    LATER = frozenset({"files_out"})

    wall: Wall | None = None
    cpu: Cpu | None = None
    memory: Memory | None = None
    cpus: Annotated[float, Field(ge=0.05, le=256)] | None = None
    pids: Pids | None = None
    output: Kept | None = None
    output_total: Annotated[Size, Field(ge=1024, le=64 * GIB)] | None = None
    workspace: Tmpfs | None = None
    inodes: Annotated[Count, Field(ge=64, le=16 * 1024**2)] | None = None
    tmp: Tmpfs | None = None
    shm: Tmpfs | None = None
    open_files: Annotated[Count, Field(ge=64, le=1024**2)] | None = None
    file_size: Annotated[Size, Field(ge=4096, le=1024 * GIB)] | None = None


class LanguageRule(Limits):
    image: ImageName | None = None
    preload: tuple[ModuleName, ...] = ()


class Code(Strict):
    LATER = frozenset({"seccomp", "egress"})

    runtime: Runtime = "runc"
    defaults: Limits = Limits()
    languages: dict[str, LanguageRule]


class Role(Strict):
    LATER = frozenset({"inherits", "tools", "files", "web", "databases", "quotas"})

    code: Code


class Deployment(Strict):
    """How much runs at once. The defaults are those of `Sizing`, which `sizing` gives."""

    warm: Annotated[int, Field(ge=0, le=256)] = _BUILT_IN.warm
    sandboxes: Annotated[int, Field(ge=1, le=4096)] = _BUILT_IN.sandboxes
    memory: Annotated[int | Share, BeforeValidator(parse_budget)] = _BUILT_IN.memory
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


class PolicyFile(Strict):
    LATER = frozenset({"enforcement", "principals", "egress", "audit", "tests", "include"})

    schema_: Annotated[Literal["sandbox-policy/v1"], Field(alias="schema")]
    ceilings: Ceilings = Ceilings()
    roles: dict[RoleName, Role]
    deployment: Deployment = Deployment()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that loaded. `revision` is "sha256:" and the digest of everything it says, built-in
    defaults included, so that two servers that enforce the same have the same."""

    source: str
    revision: str
    role: str
    grants: Mapping[str, Grant]
    sizing: Sizing
