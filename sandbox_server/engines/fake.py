"""An engine in memory, for tests of what is above the engines. `scripted` has its language.

It keeps the same contract as the real ones: `tests/engines` runs one suite against both.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from sandbox_server.engines.base import Death, EngineInfo, Owner
from sandbox_server.engines.profile import Profile
from sandbox_server.engines.scripted import ScriptedRunner
from sandbox_server.errors import ConfigError, EngineUnavailable

_IMAGES = frozenset({"base", "python", "node", "shell", "polyglot"})


class FakeHost:
    """What outlives an engine object: the containers, as a daemon would keep them."""

    def __init__(self) -> None:
        self.containers: dict[str, FakeContainer] = {}
        self.numbers = count(1)


class FakeStream(ByteStream):
    """The host's end of the wire to a scripted runner."""

    def __init__(self, runner: ScriptedRunner) -> None:
        self._runner = runner
        self._changed = anyio.Event()
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What the runner sent; EndOfStream once it is dead."""
        await anyio.lowlevel.checkpoint()
        while not self._runner.sent:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._runner.death is not None:
                raise anyio.EndOfStream
            await self._changed.wait()
        data = bytes(self._runner.sent[:max_bytes])
        del self._runner.sent[:max_bytes]
        return data

    async def send(self, item: bytes) -> None:
        """Hand bytes to the runner, which acts on them at once."""
        await anyio.lowlevel.checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        if self._runner.death is not None:
            raise anyio.BrokenResourceError
        self._runner.feed(item)
        self.wake()

    async def send_eof(self) -> None:
        """The end of its stdin ends the runner."""
        self._end("the runner ended")

    async def aclose(self) -> None:
        """Detaching ends the runner too: its stdin ends."""
        self._closed = True
        self._end("the runner ended")

    def _end(self, reason: str) -> None:
        if self._runner.death is None:
            self._runner.death = Death(0, False, reason)
        self.wake()

    def wake(self) -> None:
        """Let a waiting receiver look again."""
        self._changed.set()
        self._changed = anyio.Event()


class FakeContainer:
    """See `engines.base.Container`. `runner` is what tests look into."""

    def __init__(self, host: FakeHost, owner: Owner, profile: Profile, deadline: float) -> None:
        self.runner = ScriptedRunner()
        self.owner = owner
        self.profile = profile
        self.deadline = deadline
        self.destroyed = False
        self.available = True
        self._host = host
        self._id = f"fake-{next(host.numbers)}"
        self._stream = FakeStream(self.runner)

    @property
    def id(self) -> str:
        """A number, in the order of starting."""
        return self._id

    @property
    def stream(self) -> FakeStream:
        """The wire to the scripted runner."""
        return self._stream

    async def death(self) -> Death:
        """As the script, or whoever destroyed it, left it."""
        await anyio.lowlevel.checkpoint()
        return self.runner.death or Death(None, False, "the sandbox still runs")

    async def destroy(self) -> None:
        """Kill and remove. A second time does nothing."""
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
            if not self.available:
                raise EngineUnavailable("the fake engine is down")
            self.remove()

    def remove(self) -> None:
        """What the daemon does at a removal."""
        if self._host.containers.pop(self.id, None) is None:
            return
        self.destroyed = True
        if self.runner.death is None:
            self.runner.death = Death(None, False, "the sandbox was destroyed")
        self._stream.wake()


class FakeEngine:
    """See `engines.base.Engine`. Knobs:

    `gate`: starts wait for this event, if set. `fail_next(error)`: the next start raises it.
    `down`: every call raises EngineUnavailable. `mute`: new runners say nothing, not even HELLO.
    `missing`: limits that `check` finds missing, with the reason.
    """

    def __init__(self, owner: Owner | None = None, *, host: FakeHost | None = None) -> None:
        self.owner = owner or Owner("fake", "boot")
        self.host = host or FakeHost()
        self.gate: anyio.Event | None = None
        self.mute = False
        self.missing: dict[str, str] = {}
        self.started: list[FakeContainer] = []
        self.waiting = 0
        self._changed = anyio.Event()
        self._down = False
        self._failures: list[Exception] = []

    @property
    def down(self) -> bool:
        """Whether the engine does not answer."""
        return self._down

    @down.setter
    def down(self, value: bool) -> None:
        self._down = value
        for container in self.started:
            container.available = not value

    @property
    def destroyed(self) -> int:
        """How many of the started containers are gone."""
        return sum(container.destroyed for container in self.started)

    @property
    def live(self) -> int:
        """How many of the started containers exist."""
        return len(self.started) - self.destroyed

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds. It is asked again whenever a start begins to wait, and after each start."""
        while not condition():
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def fail_next(self, error: Exception) -> None:
        """Let one more start fail with `error`, after the failures that are already due."""
        self._failures.append(error)

    async def _answer(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self._down:
            raise EngineUnavailable("the fake engine is down")

    async def probe(self) -> EngineInfo:
        """A host with both runtimes."""
        await self._answer()
        return EngineInfo("fake", "1", frozenset({"runc", "runsc"}), dict(self.missing))

    async def check(self, profile: Profile) -> None:
        """Knows our images; lacks what `missing` says."""
        await self._answer()
        for limit, reason in self.missing.items():
            raise ConfigError(f"limit {limit!r} can't be applied: {reason}", hint="change the test")
        self._find_image(profile)

    def _find_image(self, profile: Profile) -> None:
        if profile.image not in _IMAGES:
            raise ConfigError(f"image {profile.image!r}: not on the engine", hint="build it")

    async def start(self, profile: Profile, *, deadline: float) -> FakeContainer:
        """A container whose runner has said HELLO, once `gate` lets it through."""
        await self._answer()
        self.waiting += 1
        self._change()
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.waiting -= 1
        if self._failures:
            raise self._failures.pop(0)
        self._find_image(profile)
        container = FakeContainer(self.host, self.owner, profile, deadline)
        if self.mute:
            container.runner.sent.clear()
        self.host.containers[container.id] = container
        self.started.append(container)
        self._change()
        return container

    async def sweep(self) -> int:
        """Remove other boots' containers of this instance."""
        return await self._remove([c for c in self._ours() if c.owner.boot_id != self.owner.boot_id])

    async def reap(self, *, now: float) -> int:
        """Remove what is overdue, and what another object of this boot lost."""
        return await self._remove(
            [
                c
                for c in self._ours()
                if c.deadline <= now or (c.owner.boot_id == self.owner.boot_id and c not in self.started)
            ]
        )

    async def aclose(self) -> None:
        """Remove this boot's containers."""
        await self._remove([c for c in self._ours() if c.owner.boot_id == self.owner.boot_id])

    def _ours(self) -> list[FakeContainer]:
        return [c for c in self.host.containers.values() if c.owner.instance == self.owner.instance]

    async def _remove(self, containers: list[FakeContainer]) -> int:
        await self._answer()
        for container in containers:
            container.remove()
        return len(containers)
