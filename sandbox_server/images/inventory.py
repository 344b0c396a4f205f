"""What images of ours an engine has, which are stale, and how to be rid of those."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sandbox_server.engines.base import ImageStore, StoredImage
from sandbox_server.errors import ConfigError
from sandbox_server.images.recipes import LABEL_NAME, NAMES, REPOSITORY, ROOTFS, Recipe, recipe

State = Literal["present", "stale", "missing"]


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """`state`: present (up to date), stale (only older ones are there) or missing.

    `tag` is the tag that an up-to-date image has. `size` in bytes and `created` (a Unix time) are of
    the image that is there: the newest one if stale, None if missing.
    """

    name: str
    tag: str
    state: State
    id: str | None
    size: int | None
    created: float | None


async def statuses(store: ImageStore, root: Path | None = None) -> list[ImageStatus]:
    """One entry for each sandbox image, in the order of NAMES. Raises EngineUnavailable."""
    stored = await store.labelled(LABEL_NAME)
    return [_status(recipe(name, root), stored) for name in NAMES]


async def prune(store: ImageStore, root: Path | None = None) -> list[str]:
    """Remove the tags of ours that no current recipe needs; returns them. Images that a container
    still uses stay. Raises EngineUnavailable."""
    needed = {ROOTFS}
    for name in NAMES:
        one: Recipe | None = recipe(name, root)
        while one:
            needed.add(one.tag)
            one = one.parent
    removed = []
    for image in await store.labelled(LABEL_NAME):
        for tag in image.tags:
            if tag.startswith(f"{REPOSITORY}/") and tag not in needed and await _removed(store, tag):
                removed.append(tag)
    return removed


def _status(one: Recipe, stored: list[StoredImage]) -> ImageStatus:
    ours = [image for image in stored if image.labels.get(LABEL_NAME) == one.name and image.tags]
    current = [image for image in ours if one.tag in image.tags]
    state: State = "present" if current else "stale" if ours else "missing"
    shown = max(current or ours, key=lambda image: image.created, default=None)
    return ImageStatus(
        name=one.name,
        tag=one.tag,
        state=state,
        id=shown.id if shown else None,
        size=shown.size if shown else None,
        created=shown.created if shown else None,
    )


async def _removed(store: ImageStore, tag: str) -> bool:
    try:
        await store.remove(tag)
    except ConfigError:
        return False
    return True
