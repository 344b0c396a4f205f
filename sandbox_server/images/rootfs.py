"""The root file system that every image starts from.

`debian:trixie-slim` if a registry gives it; otherwise the same thing made from a Debian mirror with
debootstrap, whose own default mirror it is. Either way the engine keeps it under one local tag.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from sandbox_server.engines.base import ImageStore
from sandbox_server.errors import ConfigError
from sandbox_server.images.commands import run
from sandbox_server.images.recipes import LABEL_NAME, LABEL_REVISION, ROOTFS

_REFERENCE = "debian:trixie-slim"
_SUITE = "trixie"
_FIRST_WORD = 20.0
_WHOLE_PULL = 600.0
_WORKSHOP = Path("/var/tmp")  # noqa: S108  # /tmp is often a small tmpfs, mounted nodev, where debootstrap can't work

_LEFT_OUT = (
    # What debian:trixie-slim leaves out as well, and what debootstrap copies from this host.
    "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/info/*", "./usr/share/locale/*",
    "./usr/share/lintian/*", "./usr/share/groff/*", "./usr/share/linda/*",
    "./var/cache/apt/archives/*.deb", "./var/cache/apt/*.bin", "./var/lib/apt/lists/*", "./var/log/*.log",
    "./etc/hostname", "./etc/resolv.conf", "./etc/machine-id", "./dev/*", "./proc/*", "./sys/*", "./run/*",
)  # fmt: skip

Log = Callable[[str], None]


async def ensure(store: ImageStore, *, fresh: bool, log: Log) -> None:
    """Make sure that the engine has the root file system; with `fresh`, a new one.

    Raises ConfigError when neither a registry nor a mirror gives one, EngineUnavailable.
    """
    if not fresh and await store.find(ROOTFS):
        return
    try:
        digest = await _pull(store, log)
        log(f"pulled {digest}")
    except ConfigError as refused:
        log(f"no registry gives {_REFERENCE}: {refused.message}")
        await _bootstrap(store, log=log, refused=refused.message)


async def _pull(store: ImageStore, log: Log) -> str:
    """A registry that doesn't exist may be dropped packets: the first word must come soon."""
    with anyio.move_on_after(_FIRST_WORD) as scope:

        def heard(line: str) -> None:
            scope.deadline = anyio.current_time() + _WHOLE_PULL
            log(line)

        return await store.pull(_REFERENCE, tag=ROOTFS, log=heard)
    raise ConfigError("no answer in time")


async def _bootstrap(store: ImageStore, *, log: Log, refused: str) -> None:
    if shutil.which("debootstrap") is None:
        raise ConfigError(
            f"the base image can be neither pulled ({refused}) nor made: debootstrap is not installed",
            hint="apt-get install debootstrap debian-archive-keyring, or `docker pull "
            f"{_REFERENCE}` on a machine with a registry and `docker load` it here as {ROOTFS}",
        )
    become_root = _become_root()
    async with AsyncExitStack() as stack:
        workshop = Path(tempfile.mkdtemp(prefix="sandbox-rootfs-", dir=_WORKSHOP))
        stack.push_async_callback(_clear, workshop, become_root)
        root, tar = workshop / "root", workshop / "rootfs.tar"
        log(f"making {_SUITE} with debootstrap")
        # Without a keyring debootstrap would go on unverified, with no more than a remark.
        command = ["debootstrap", "--variant=minbase", "--force-check-gpg", _SUITE, str(root)]
        await _must([*become_root, *command], log)
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        tar.touch()
        archive = ["tar", "--numeric-owner", "--one-file-system", "--sort=name", *left_out]
        await _must([*become_root, *archive, "-C", str(root), "-cf", str(tar), "."], log)
        labels = {LABEL_NAME: "rootfs", LABEL_REVISION: "debootstrap"}
        log(f"made {await store.load_rootfs(tar, tag=ROOTFS, labels=labels)}")


async def _must(command: list[str], log: Log) -> None:
    ended = await run(command, log=log)
    if ended.exit_code != 0:
        raise ConfigError(
            f"`{' '.join(command[:4])} ...` failed:\n{ended.tail}",
            hint="does this machine reach a Debian mirror, and is debian-archive-keyring installed?",
        )


async def _clear(workshop: Path, become_root: list[str]) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(60):
        # A debootstrap that was cancelled may leave its mounts; rm must not walk into them.
        for mounted in ("proc", "sys"):
            await run([*become_root, "umount", "-q", str(workshop / "root" / mounted)], log=_quiet)
        await run([*become_root, "rm", "-rf", "--one-file-system", str(workshop)], log=_quiet)


def _become_root() -> list[str]:
    """Raises ConfigError if this user can neither be root nor sudo."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo", "-n"]
    raise ConfigError(
        "debootstrap needs root to make the base image",
        hint="run `sandbox-server images build` once as root",
    )


def _quiet(_: str) -> None:
    return
