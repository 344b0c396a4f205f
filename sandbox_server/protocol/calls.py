"""The tool calls under way, so that a server that stops can answer them instead of hanging up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from sandbox_server.errors import Busy, SandboxLost

T = TypeVar("T")

RETRY_SECONDS = 5.0


class Calls:
    """Every call runs inside one of these; `stop` ends them all."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()
        self._stopping = False

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns. Raises SandboxLost if `stop` ended it, Busy if it came too late."""
        if self._stopping:
            raise Busy("The server is stopping", retry_after=RETRY_SECONDS)
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await work()
            finally:
                self._scopes.discard(scope)
        raise SandboxLost(
            "The server is stopping and ended the run",
            hint="The code may have run in part. Look before running it again.",
        )

    def stop(self) -> None:
        """End every call, with an error for its caller, and start no other."""
        self._stopping = True
        for scope in self._scopes:
            scope.cancel()
