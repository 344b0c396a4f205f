"""The control groups that the host has for an instance's containers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def groups_of(instance: str) -> Iterator[Path]:
    """Its parent groups, one for each hierarchy. `os.walk`, because others' groups come and go meanwhile,
    and a glob raises for one that has gone."""
    for place, names, _ in os.walk(ROOT):
        if f"sbx-{instance}" in names:
            yield Path(place, f"sbx-{instance}")
        names[:] = [name for name in names if not name.startswith("sbx-")]


def containers_of(instance: str) -> set[str]:
    """The names of the containers that have a group now."""
    found: set[str] = set()
    for group in groups_of(instance):
        with contextlib.suppress(FileNotFoundError):
            found.update(path.name for path in group.iterdir() if path.is_dir())
    return found


def remove_groups(instance: str) -> None:
    """The engine makes the instance's group and never removes it; a deployment has one for ever, a test
    session would leave one behind each time."""
    for group in groups_of(instance):
        with contextlib.suppress(OSError):  # a container that is still being removed: harmless, empty soon
            group.rmdir()
