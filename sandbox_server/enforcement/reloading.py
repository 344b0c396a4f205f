"""A policy that changes while the server runs: read, checked and tested anew, then in force all at once.

Whatever is wrong with the new one leaves the old one in force, and is said loudly.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import structlog

from sandbox_server.errors import ConfigError, SandboxServerError
from sandbox_server.policy.cases import load_cases
from sandbox_server.policy.models import Policy
from sandbox_server.policy.testing import run_cases

LOOK_EVERY: Final = 2.0
_MOST_FILES: Final = 1000
_SHOWN: Final = 5
_Look = tuple[str, int, int, int, int]
Fingerprint = frozenset[_Look]

log = structlog.get_logger(__name__)


class Reloading:
    """`load` reads the policy, `adopt` puts it in force: or it raises, and the last one is. `in_force` is the
    revision that rules, whatever came of it. `seen` is how the files looked before the policy in force was
    read; without it, how they look now."""

    def __init__(
        self,
        path: Path,
        load: Callable[[], Policy],
        adopt: Callable[[Policy], Awaitable[None]],
        in_force: Callable[[], str],
        seen: Fingerprint | None = None,
    ) -> None:
        self._path = path
        self._load = load
        self._adopt = adopt
        self._in_force = in_force
        self._loaded = fingerprint(path) if seen is None else seen
        self._seen = self._loaded
        self._lock = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(1)
        self.failures = 0
        self.reloads = 0

    async def reload(self) -> bool:
        """Whether the policy as it is written now is in force."""
        async with self._lock:
            try:
                policy = await anyio.to_thread.run_sync(self._read, limiter=self._limiter)
                await self._adopt(policy)
            except SandboxServerError as error:
                self.failures += 1
                log.error(
                    "policy_reload_failed", reason=error.message, hint=error.hint, in_force=self._in_force()
                )
                return False
            except Exception:
                self.failures += 1
                log.exception("policy_reload_failed", in_force=self._in_force())
                return False
            self.reloads += 1
            log.info("policy_reloaded", policy=policy.source, revision=policy.revision)
            return True

    def _read(self) -> Policy:
        policy = self._load()
        check_tests(policy, self._path)
        return policy

    async def watch(self, *, every: float = LOOK_EVERY) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await anyio.sleep(every)

    async def look(self) -> bool:
        """Reload if a file beside the policy has changed, and has not changed since the last look: whoever
        writes it is done. Whether it came to that."""
        found = await anyio.to_thread.run_sync(fingerprint, self._path, limiter=self._limiter)
        at_rest, self._seen = found == self._seen, found
        if not at_rest or found == self._loaded:
            return False
        self._loaded = found
        await self.reload()
        return True

    async def listen(self) -> None:
        """Reload on SIGHUP."""
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                await self.reload()


def check_tests(policy: Policy, path: Path) -> None:
    """Raises ConfigError if one of the tests that the policy names fails."""
    cases = [(name, case) for name in policy.file.tests for case in load_cases(path.parent / name)]
    failed = [each for each in run_cases(policy, cases) if not each.passed]
    if failed:
        shown = "\n".join(f"  {each.file}: {each.case}: {each.wrong}" for each in failed[:_SHOWN])
        raise ConfigError(
            f"{len(failed)} of {len(cases)} tests of the policy {path} fail:\n{shown}",
            hint="sandbox-server policy test names all of them",
        )


def fingerprint(path: Path) -> Fingerprint:
    """Of the policy and of everything beside it that it may include."""
    found = {_look_at(path)}
    try:
        with os.scandir(path.parent) as entries:
            for number, entry in enumerate(entries):
                if number >= _MOST_FILES:
                    break
                if entry.name.endswith((".yaml", ".yml")):
                    found.add(_look_at(Path(entry.path)))
    except OSError:
        pass
    return frozenset(found)


def _look_at(path: Path) -> _Look:
    try:
        info = path.stat()
    except OSError:
        return path.name, 0, 0, 0, 0
    # What copies files may set their time of change back, but not the kernel's own (ctime).
    return path.name, info.st_mtime_ns, info.st_ctime_ns, info.st_size, info.st_ino
