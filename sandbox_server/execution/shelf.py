"""The pool of one profile: the sandboxes that wait warm, and the callers that wait for one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import Busy, ConfigError, EngineUnavailable, SandboxServerError
from sandbox_server.execution.queue import FairQueue
from sandbox_server.execution.sandbox import Sandbox

RETRY_FIRST, RETRY_MOST = 0.5, 15.0


class Taken(NamedTuple):
    """A sandbox for a caller. `warm`: it was ready; otherwise the caller waited for `queued` seconds until
    work on it began."""

    sandbox: Sandbox
    warm: bool
    queued: float


@dataclass(eq=False)
class Shelf:
    """The pool of one profile. `turn` says when it was last served; the lowest is next.

    `kept` unless somebody has asked for a profile of its own: nothing of that is made ahead, and
    the shelf is there only while somebody waits for it.
    """

    profile: Profile
    kept: bool = True
    idle: deque[Sandbox] = field(default_factory=deque)
    queue: FairQueue = field(default_factory=FairQueue)
    making: int = 0
    turn: int = 0
    checked: bool = False
    error: SandboxServerError | None = None
    retry_at: float = 0.0
    retry_pause: float = RETRY_FIRST

    @property
    def wanted(self) -> int:
        """Callers that no start under way will serve."""
        return len(self.queue) - self.making

    def succeeded(self) -> None:
        self.retry_at, self.retry_pause, self.error = 0.0, RETRY_FIRST, None

    def failed(self, error: EngineUnavailable | ConfigError) -> None:
        """Everybody who waits learns why at once; warm starts back off."""
        self.error = error
        self.checked = False
        self.back_off()
        self.turn_away(lambda: type(error)(error.message, hint=error.hint))

    def turn_away(self, why: Callable[[], SandboxServerError]) -> None:
        """Nobody waits any more. One error each: one that many raise collects the frames of them all."""
        for waiter in self.queue.drain():
            waiter.settle(why())

    def back_off(self) -> None:
        """Make nothing ahead for a while, each time longer."""
        self.retry_at = time.monotonic() + self.retry_pause
        self.retry_pause = min(RETRY_MOST, self.retry_pause * 2)


def stopped() -> EngineUnavailable:
    """What everybody is told who comes too late."""
    return EngineUnavailable("the server is stopping", hint="nothing was run; try again once it is back")


def changed() -> Busy:
    """What they are told who ask for a sandbox by rules that no longer hold."""
    return Busy("the policy has just changed", retry_after=0.1, hint="nothing was run; call again")


def too_slow(seconds: float) -> EngineUnavailable:
    return EngineUnavailable(
        f"the engine did not start a sandbox in {seconds:g} s", hint="run 'sandbox-server doctor' on the host"
    )
