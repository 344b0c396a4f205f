"""The contract between the execution manager and whatever makes sandboxes.

An engine starts containers whose PID 1 is our runner and hands over the byte stream that
the runner's wire rides on (`images/runner/README.md` documents the wire). It knows nothing
of runs, sessions or languages, and nothing here is an idea of Docker's: a Kubernetes pod
with an attach stream fits as well. `tests/engines/contract.py` checks every engine
against the guarantees written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from anyio.abc import ByteStream

from sandbox_server.engines.profile import Profile


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose containers these are; written on each as labels, read by `sweep`.

    `instance` names the deployment and survives restarts; `boot_id` is new at each start.
    """

    instance: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What `probe` found out. `missing` maps a limit the host can't apply to the reason."""

    name: str
    version: str
    runtimes: frozenset[str]
    missing: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Death:
    """How a container ended. `exit_code` is None while it still runs or if nobody knows."""

    exit_code: int | None
    out_of_memory: bool
    reason: str


class Container(Protocol):
    """One started container. Exactly one owner uses it and calls `destroy`."""

    @property
    def id(self) -> str:
        """The engine's own id, for logs and labels."""
        ...

    @property
    def stream(self) -> ByteStream:
        """The runner's wire. Ends (EndOfStream or BrokenResourceError) when the container does.

        Reads apply back-pressure down to the runner: an engine buffers at most 2 MiB.
        """
        ...

    async def death(self) -> Death:
        """How the container ended, as far as the engine knows. Never raises EngineUnavailable
        for a container that is merely gone: `reason` then says so."""
        ...

    async def destroy(self) -> None:
        """Kill every process in it and remove it. Idempotent; also works on a paused container.

        Returns once nothing of it runs. Raises EngineUnavailable if the engine does not
        answer; the next `sweep` or `reap` then removes it.
        """
        ...


class Engine(Protocol):
    """Makes containers from profiles. Safe to call from many tasks at once; never blocks the loop."""

    async def probe(self) -> EngineInfo:
        """Ask the engine what it is. Raises EngineUnavailable when it does not answer."""
        ...

    async def check(self, profile: Profile) -> None:
        """Raise ConfigError, with the reason and the fix, if this host can't apply
        every limit of `profile`, lacks its runtime or its image. Nothing is dropped silently.
        Raises EngineUnavailable when the engine does not answer."""
        ...

    async def start(self, profile: Profile, *, deadline: float) -> Container:
        """A started container whose runner is about to say HELLO on the stream.

        `deadline` is a Unix time after which a reaper may remove the container whoever owns it.
        Cancelling leaves nothing behind. Raises EngineUnavailable (engine down, no space,
        daemon refused) or ConfigError (image missing).
        """
        ...

    async def sweep(self) -> int:
        """Remove this instance's containers of every *other* boot. Returns how many."""
        ...

    async def reap(self, *, now: float) -> int:
        """Remove this instance's containers whose deadline has passed, and this boot's
        containers that no live `Container` object owns. Returns how many."""
        ...

    async def aclose(self) -> None:
        """Destroy every container of this boot and release the connection. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as the engine has it. `size` in bytes, `created` a Unix time."""

    id: str
    tags: tuple[str, ...]
    labels: dict[str, str]
    size: int
    created: float


@dataclass(frozen=True, slots=True)
class ImageBuild:
    """One image to build. `context` is an uncompressed tar on this host, with its Dockerfile at the top.

    The build has the engine host's network (a package mirror may answer nowhere else).
    """

    tag: str
    context: Path
    labels: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    fresh: bool = False
    """Build every step again, whatever the engine remembers of an earlier build."""


class ImageStore(Protocol):
    """Where an engine keeps images. Every method raises EngineUnavailable when the engine does not
    answer. `log` is called in the event loop, once per line; it must be quick."""

    async def find(self, reference: str) -> StoredImage | None:
        """The image behind a tag or id, or None. Never asks a registry."""
        ...

    async def labelled(self, label: str) -> list[StoredImage]:
        """Every image that carries `label`."""
        ...

    async def build(self, build: ImageBuild, *, log: Callable[[str], None]) -> str:
        """Build and tag; returns the id. The tag appears only once the image is whole.

        Raises ConfigError with the last lines of the log if a step fails.
        """
        ...

    async def load_rootfs(self, tar: Path, *, tag: str, labels: dict[str, str]) -> str:
        """Make an image of a root file system in an uncompressed tar on this host; returns its id."""
        ...

    async def pull(self, reference: str, *, tag: str, log: Callable[[str], None]) -> str:
        """Pull `reference` from its registry and tag it; returns the digest it was pulled by.

        Raises ConfigError if no registry gives it. Has no time-out of its own: cancel it.
        """
        ...

    async def remove(self, reference: str) -> None:
        """Remove a tag, and the image when nothing else uses it. Idempotent.

        Raises ConfigError if a container still uses it."""
        ...
