"""Real images on the real engine. What these tests change, they change in a copy of images/."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import anyio
import docker
import pytest

from sandbox_server.engines.docker.images import DockerImages, open_images
from sandbox_server.images.build import build
from sandbox_server.images.progress import Progress
from sandbox_server.images.recipes import DEFAULT, NAMES, Recipe, recipe
from sandbox_server.shipped import shipped

Run = Callable[..., str]


@pytest.fixture
async def store() -> AsyncIterator[DockerImages]:
    async with open_images() as images:
        yield images


@pytest.fixture(scope="session")
def built() -> dict[str, str]:
    """name -> id of the default sandbox images, up to date."""

    async def bring() -> dict[str, str]:
        async with open_images() as images:
            return await build(images, DEFAULT, report=lambda _: None)

    return anyio.run(bring)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of images/ that a test may change."""
    return Path(shutil.copytree(shipped("images"), tmp_path / "images"))


@pytest.fixture
async def changed(store: DockerImages, copied: Path) -> AsyncIterator[Path]:
    """A copy of images/ whose runner is unlike any other; what is built from it alone is removed."""
    (copied / "runner" / "mark.py").write_text(f"# {uuid4().hex}\n")
    yield copied
    for tag in _tags_of(copied) - _tags_of(shipped("images")):
        await store.remove(tag)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    """To look at images with; not the code under test."""
    client = docker.from_env(timeout=120)
    yield client
    client.close()


@pytest.fixture
def run(client: docker.DockerClient) -> Run:
    """Run a program in an image as a sandbox would: its own user, read-only root, no network."""

    def run(image: str, *command: str, user: int = 10007, capabilities: Sequence[str] = ()) -> str:
        output: bytes = client.containers.run(
            image, list(command[1:]), entrypoint=[command[0]], user=f"{user}:{user}", read_only=True,
            network_mode="none", cap_drop=["ALL"], cap_add=list(capabilities), remove=True,
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "size=64m,mode=1777", "/workspace": f"size=64m,uid={user},gid={user},mode=700"},
            environment={"HOME": "/workspace"}, stderr=True, labels={"sandbox-server.test": "images"},
        )  # fmt: skip
        return output.decode()

    return run


class Log(list[Progress]):
    """Collects progress; `images` are those that had any, in order."""

    def __call__(self, progress: Progress) -> None:
        self.append(progress)

    @property
    def images(self) -> list[str]:
        return list(dict.fromkeys(progress.image for progress in self))


@pytest.fixture
def log() -> Log:
    return Log()


def _tags_of(root: Path) -> set[str]:
    tags = set()
    for name in NAMES:
        one: Recipe | None = recipe(name, root)
        while one:
            tags.add(one.tag)
            one = one.parent
    return tags
