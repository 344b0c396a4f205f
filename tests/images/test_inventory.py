"""Pruning removes tags of ours that nothing needs, and never anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox_server.engines.base import ImageBuild, StoredImage
from sandbox_server.errors import ConfigError
from sandbox_server.images.inventory import prune, statuses
from sandbox_server.images.recipes import NAMES, ROOTFS, recipe, tag_of

pytestmark = pytest.mark.anyio


class Shelf:
    """An ImageStore in memory. Pruning a shared engine would take images from whoever uses it."""

    def __init__(self, *images: StoredImage, used: frozenset[str] = frozenset()) -> None:
        self.images = list(images)
        self._used = used

    async def find(self, reference: str) -> StoredImage | None:
        return next((image for image in self.images if reference in (image.id, *image.tags)), None)

    async def labelled(self, label: str) -> list[StoredImage]:
        return [image for image in self.images if label in image.labels]

    async def build(self, build: ImageBuild, *, log: Callable[[str], None]) -> str:
        raise NotImplementedError

    async def load_rootfs(self, tar: Path, *, tag: str, labels: dict[str, str]) -> str:
        raise NotImplementedError

    async def pull(self, reference: str, *, tag: str, log: Callable[[str], None]) -> str:
        raise NotImplementedError

    async def remove(self, reference: str) -> None:
        if reference in self._used:
            raise ConfigError("in use")
        self.images = [
            replace(image, tags=tuple(tag for tag in image.tags if tag != reference)) for image in self.images
        ]

    @property
    def tags(self) -> set[str]:
        return {tag for image in self.images for tag in image.tags}


def stored(name: str, *tags: str, created: float = 1.0) -> StoredImage:
    return StoredImage(
        id=f"sha256:{name}{created}",
        tags=tags,
        labels={"sandbox-server.image": name},
        size=1,
        created=created,
    )


def current() -> list[StoredImage]:
    images = [stored("rootfs", ROOTFS)]
    for name in NAMES:
        images += [stored(name, tag_of(name)), stored(f"{name}-tools", recipe(name).parent_tag)]
    return images


async def test_prune_keeps_every_image_that_a_current_one_stands_on() -> None:
    shelf = Shelf(*current(), stored("python", "mcp-sandbox/python:000000000000", created=0.0))
    before = shelf.tags
    assert await prune(shelf) == ["mcp-sandbox/python:000000000000"]
    assert shelf.tags == before - {"mcp-sandbox/python:000000000000"}


async def test_prune_leaves_what_is_used_and_what_an_operator_tagged() -> None:
    old, kept = "mcp-sandbox/node:000000000000", "registry.example/kept:1"
    shelf = Shelf(stored("node", old, kept), used=frozenset({old}))
    assert await prune(shelf) == []
    assert shelf.tags == {old, kept}


async def test_the_newest_of_several_stale_images_is_shown() -> None:
    shelf = Shelf(
        stored("shell", "mcp-sandbox/shell:1", created=1.0),
        stored("shell", "mcp-sandbox/shell:2", created=2.0),
    )
    found = {status.name: status for status in await statuses(shelf)}
    assert (found["shell"].state, found["shell"].created) == ("stale", 2.0)
    assert (found["python"].state, found["python"].id) == ("missing", None)
