"""What is asked of the execution manager and what it answers: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sandbox_server.engines.profile import KIB, MIB, Runtime, SandboxLimits, Seccomp

Outcome = Literal[
    "ok",
    "error",
    "signal",
    "compile_error",
    "packages_failed",
    "timeout",
    "out_of_memory",
    "output_limit",
    "disk_full",
    "cancelled",
]
"""How a program ended. `error` is a non-zero exit, `signal` a death by a signal of its own making,
`compile_error` a build that failed for no limit, `packages_failed` an installation: then the program was
never started."""

LimitName = Literal["wall", "cpu", "memory", "output", "disk"]
StreamName = Literal["stdout", "stderr"]
SessionState = Literal["none", "kept", "reset", "lost"]
"""`none`: one-shot. `kept`: variables and files are as the last call left them.
`reset`: files survive, the interpreter was started afresh. `lost`: nothing survives."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Limits of one run. `wall` and `cpu` in seconds, `output` and `output_total` in bytes.

    `output` is kept per stream (head and tail); the program is stopped with `output_limit`
    once it has written more than `output_total` to stdout and stderr together.
    """

    wall: float = 30.0
    cpu: float = 30.0
    output: int = 256 * KIB
    output_total: int = 64 * MIB
    display_total: int = 8 * MIB


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to put into the workspace before the run. `path` is relative to `/workspace`."""

    path: str
    content: bytes


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One execution. `code` may hold any text that encodes to UTF-8 without NUL."""

    language: str
    code: str
    args: tuple[str, ...] = ()
    stdin: bytes = b""
    files: tuple[InputFile, ...] = ()
    limits: RunLimits = field(default_factory=RunLimits)
    reuse: bool = False
    """One-shot: in a sandbox that was scrubbed after another run of the same principal, if there is one."""
    packages: tuple[str, ...] = ()
    """Installed before the code runs, within its limits."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of a stream as it came: raw bytes, possibly mid-character."""

    stream: StreamName
    data: bytes


@dataclass(frozen=True, slots=True)
class Queued:
    """The call waits for a sandbox, or (`turn`) for the calls before it in its session; `position` 1 is
    next."""

    position: int
    turn: bool = False


RunEvent = Output | Queued


@dataclass(frozen=True, slots=True)
class Captured:
    """One stream, bounded and made safe for JSON: control characters are visible escapes.

    `total_bytes` is what the program wrote, `omitted_bytes` what was left out of `text`
    (0 = nothing); the cut is marked inside `text`. Of what was cut the first `kept_bytes` of
    the whole stream can be read at `uri` for a while; without one nothing is kept.
    """

    text: str
    total_bytes: int
    omitted_bytes: int
    uri: str | None = None
    kept_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Display:
    """A rich output: `image/png` (bytes), `text/html` or `text/plain` (UTF-8)."""

    mime: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Artifact:
    """A regular file in `/workspace` that the run created or changed. `path` is relative to it and shown:
    control characters as escapes, invalid UTF-8 replaced. `uri` is None if the file is not kept.
    `image` is its content, if it is a small PNG or JPEG."""

    path: str
    size: int
    uri: str | None
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the run took. `cpu` in seconds over all its processes; `peak_memory` in bytes, the
    most the whole sandbox has held since it was made, so also in a session's earlier runs. None: this runtime
    can't tell, or the sandbox is one that was used again."""

    wall: float
    cpu: float | None
    peak_memory: int | None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting for one's turn (for earlier calls of the session, for a place), getting a sandbox
    ready, running, all together. `warm`: the sandbox was ready before the call came. `reused`: it was
    scrubbed after earlier runs of the same principal."""

    queue: float
    acquire: float
    run: float
    total: float
    warm: bool
    reused: bool = False


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """`id` is None for a one-shot run. `note` says what happened when `state` is reset or lost."""

    id: str | None
    state: SessionState
    expires_in: float | None = None
    note: str = ""


ResetWhat = Literal["interpreter", "everything"]


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a caller may choose of a session's sandbox; None is the policy's own. Sizes in bytes."""

    NAMES: ClassVar = ("memory", "cpus", "pids", "workspace")

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    workspace: int | None = None


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """A session to be made: for the programs of `language`, for at most `ttl` seconds."""

    language: str = "python"
    ttl: float | None = None
    limits: SessionLimits = field(default_factory=SessionLimits)
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its owner sees it. `info.state` is what the operation left of the session.

    `age` in seconds; `running`: a call is going on in it; not `explicit`: it is the connection's own.
    """

    info: SessionInfo
    image: str
    languages: tuple[str, ...]
    limits: SandboxLimits
    age: float
    running: bool
    explicit: bool


@dataclass(frozen=True, slots=True)
class Isolation:
    """What stood between the program and the host. `seccomp` is None under gVisor, which takes no filter."""

    runtime: Runtime
    grade: Literal["container", "user-space-kernel"]
    seccomp: Seccomp | None = "default"


@dataclass(frozen=True, slots=True)
class Packages:
    """What was installed for a run: (name, version), as the sandbox says. `complete`: all that was asked
    for; if not, the code was not run. `seconds` count against the run's; `cached` files came from the host's
    own store."""

    installed: tuple[tuple[str, str], ...]
    complete: bool
    seconds: float
    cached: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """The truth about one run. `limit` names the limit that ended it, if one did."""

    outcome: Outcome
    exit_code: int | None
    signal: str | None
    limit: LimitName | None
    stdout: Captured
    stderr: Captured
    value: str | None
    displays: tuple[Display, ...]
    displays_omitted: int
    usage: Usage
    timings: Timings
    session: SessionInfo
    isolation: Isolation
    artifacts: tuple[Artifact, ...] = ()
    artifacts_omitted: int = 0
    """How many more there are at least; the sandbox is not searched for ever."""
    artifacts_complete: bool = True
    """Whether all of `/workspace` was looked at."""
    packages: Packages | None = None
    limit_shared: bool = False
    """Memory was short, and whether by this run or by a background process nobody can tell."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that can be read with `Executor.read_resource`. `name` is shown, `size` in bytes."""

    uri: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Page:
    """What of a resource is wanted. `limit` in bytes, None for as much as is usual; `grep` asks for the
    lines that hold this text, instead of the bytes."""

    offset: int = 0
    limit: int | None = None
    grep: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A line that was searched for, or the part of it around the match; `offset` is where `text` begins."""

    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A page. `data` are the bytes at `offset`, or `found` is what the search came upon. `next` is the offset
    to go on at, None at the end. `total` is what is kept of the resource."""

    data: bytes
    offset: int
    total: int
    next: int | None
    found: tuple[Found, ...] | None = None
    is_stream: bool = False
