"""The contract between what clients speak (`protocol/`, the CLI) and what runs their code.

The manager implements `Executor`; the protocol layer knows nothing else of it. Everything
here is free of MCP and of any engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sandbox_server.engines.profile import KIB, MIB
from sandbox_server.execution.models import RunEvent, RunRequest, RunResult

OnEvent = Callable[[RunEvent], None]
"""Called synchronously on the event loop, in the order of the events; must not block or raise."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The most a caller may ask for, and what it gets when it asks for nothing.

    Times in seconds, sizes in bytes, `max_files` and `max_args` are counts. `max_files_bytes`
    is over all files of a call, after decoding. `default_output` and `max_output` are what is
    kept of each stream.
    """

    max_wall: float = 300.0
    default_wall: float = 30.0
    max_code: int = MIB
    max_output: int = MIB
    default_output: int = 256 * KIB
    max_files: int = 64
    max_files_bytes: int = 16 * MIB
    max_args: int = 64
    max_stdin: int = 4 * MIB


class Executor(Protocol):
    """Runs code. Safe to call from many tasks at once."""

    async def run(self, request: RunRequest, *, connection: str | None, on_event: OnEvent) -> RunResult:
        """Run `request` and say how it ended; a failing program is a result, never an exception.

        `connection` is the id of the caller's connection, whose session keeps state between
        calls; None is a one-shot run in a sandbox of its own. Cancelling ends every process of
        the run before this returns. Raises the errors of `sandbox_server.errors`.
        """
        ...

    async def close_connection(self, connection: str) -> None:
        """The connection has ended: destroy its session. Idempotent, also for an unknown id."""
        ...

    def languages(self) -> tuple[str, ...]:
        """The languages that `run` knows, most used first. Known even while the engine is down."""
        ...

    def caps(self) -> Caps:
        """The limits that calls are held to."""
        ...
