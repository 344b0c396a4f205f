"""What is asked about background processes of a session, and what it gives: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sandbox_server.execution.models import SessionInfo

SignalName = Literal["INT", "TERM", "KILL", "HUP", "USR1", "USR2"]

MAX_WAIT = 30.0
MAX_STDIN = 64 * 1024
"""Bytes that are sent at once, and that wait for a process that does not read."""
MAX_POLL = 128 * 1024
DEFAULT_POLL = 32 * 1024
MAX_COMMAND = 64
MAX_TEXT = 128 * 1024
"""Bytes of a whole command, and of a whole environment."""
MAX_VARIABLES = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which output an operation brings along: what came after `cursor`, None for what nobody was told yet;
    at most `limit` bytes; and how many seconds to wait for some, or for the end."""

    cursor: int | None = None
    wait: float = 0.0
    limit: int = DEFAULT_POLL


@dataclass(frozen=True, slots=True)
class StartProcess:
    """`cwd` is relative to the workspace."""

    command: tuple[str, ...]
    cwd: str = "."
    env: tuple[tuple[str, str], ...] = ()
    wanted: Wanted = Wanted()


@dataclass(frozen=True, slots=True)
class PollProcess:
    process: str
    wanted: Wanted = Wanted()


@dataclass(frozen=True, slots=True)
class WriteProcess:
    """To its stdin, all of it or nothing; `close` ends its stdin after that."""

    process: str
    data: bytes
    close: bool = False
    wanted: Wanted = Wanted()


@dataclass(frozen=True, slots=True)
class SignalProcess:
    """To its process group; KILL to all that it has started. Waits for the end, not for output."""

    process: str
    signal: SignalName
    wanted: Wanted = Wanted()


@dataclass(frozen=True, slots=True)
class ListProcesses:
    pass


ProcessOperation = StartProcess | PollProcess | WriteProcess | SignalProcess | ListProcesses


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A process as it is. Neither running nor with an exit code or a signal: nobody knows how it ended.

    `oom`: the kernel ended it for lack of memory. `age` in seconds since its start. `written`: bytes of
    output so far, the cursor of what comes next. `stdin`: bytes that it has not read yet, None if closed.
    """

    id: str
    command: str
    running: bool
    exit_code: int | None
    signal: str | None
    oom: bool
    age: float
    written: int
    stdin: int | None


@dataclass(frozen=True, slots=True)
class ProcessOutput:
    """`cursor` is where to go on; `missed` bytes before this were dropped because nobody asked in time."""

    stdout: bytes
    stderr: bytes
    cursor: int
    missed: int


@dataclass(frozen=True, slots=True)
class ProcessAnswer:
    """`output` is None for a list."""

    processes: tuple[ProcessView, ...]
    output: ProcessOutput | None
    session: SessionInfo
