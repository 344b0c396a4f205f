"""What a policy grants and how a deployment is sized, as the execution manager takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_server.engines.profile import Profile, SandboxLimits
from sandbox_server.execution.languages import Language
from sandbox_server.execution.models import RunLimits
from sandbox_server.guards.files import FileRules


@dataclass(frozen=True, slots=True)
class Grant:
    """One language as the policy grants it: its sandbox, the limits of a run when the caller
    names none, and the most that a caller may ask for.

    `widest` is the most that a session made for it may have of memory, cpus, pids and
    workspace; None: what the profile has. `egress` names the way out that its runs get; None: there is
    none. `reuse`: a caller may let one-shot runs of its own follow each other in one sandbox, which is
    scrubbed between them. `files_out`: the most files of a run that its result names and that are kept.
    `packages` are globs of the packages that may be installed.
    """

    language: Language
    profile: Profile
    defaults: RunLimits = field(default_factory=RunLimits)
    ceiling: RunLimits = field(default_factory=RunLimits)
    widest: SandboxLimits | None = None
    egress: str | None = None
    reuse: bool = False
    files_out: int | None = None
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Rights:
    """What a caller may do with sandboxes, by one revision of the policy. Made once for each set of roles, so
    that two callers with the same rights have the same object: it goes by identity.

    `files` are the rules for names in file operations, None: there are none. `runs` is how many calls it may
    have under way, None: as many as the deployment gives anybody.
    """

    languages: Mapping[str, Grant] = field(default_factory=dict)
    files: FileRules | None = None
    runs: int | None = None
    revision: str = "none"


@dataclass(frozen=True, slots=True)
class Sizing:
    """How much the deployment runs at once. Times in seconds, `memory` in bytes.

    `warm` sandboxes wait per profile. `sandboxes` caps all that exist at once (warm, busy and
    in sessions) and `memory` the sum of their limits: admission is decided before creation.
    `runs_per_principal` counts calls that wait, too, `others_per_principal` those that are no runs; `held` is
    how many bytes all of them may have brought together, a quarter of it those of one. A sandbox that is used
    again is so for at most `reuse_uses` runs and is not kept for longer than `reuse_idle`; a principal may
    have `reuse_each` of them waiting, and all together no more than half of `sandboxes`.
    """

    warm: int = 2
    sandboxes: int = 16
    memory: int = 8 * 1024**3
    parallel_starts: int = 3
    queue: int = 64
    queue_wait: float = 30.0
    runs_per_principal: int = 32
    others_per_principal: int = 64
    held: int = 256 * 1024**2
    sessions: int = 8
    sessions_per_principal: int = 8
    session_idle: float = 900.0
    session_hold: float = 60.0
    session_ttl: float = 4 * 3600.0
    store: int = 256 * 1024**2
    store_ttl: float = 900.0
    reap_every: float = 30.0
    reuse_uses: int = 1000
    reuse_each: int = 8
    reuse_idle: float = 60.0
