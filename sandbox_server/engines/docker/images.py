"""Images of a Docker Engine: the `ImageStore` of `engines/base.py`.

docker-py is synchronous. Every call runs in a thread of a limiter of its own: a build takes minutes
and must not hold the threads that start and destroy sandboxes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
import requests
from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound
from urllib3.exceptions import HTTPError

from sandbox_server.engines.base import ImageBuild, StoredImage
from sandbox_server.engines.docker.client import DockerClient, engine_down
from sandbox_server.errors import ConfigError, EngineUnavailable

T = TypeVar("T")
Log = Callable[[str], None]

_THREADS = 4
_SILENCE = 120
"""Seconds that a call may stay silent, such as removing an image. Builds and imports may for ever."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]")
_TAIL = 15
"""Lines of a failed build that its error repeats."""


@asynccontextmanager
async def open_images(base_url: str | None = None) -> AsyncIterator[DockerImages]:
    """The images of the engine at `base_url` (default: DOCKER_HOST, or the usual socket).

    Entering raises EngineUnavailable if it does not answer, ConfigError if the address is wrong.
    """
    address = DockerClient(base_url).base_url

    def connect() -> APIClient:
        api = APIClient(address, version="auto", timeout=_SILENCE)
        api.trust_env = False  # no HTTP proxy between us and our engine
        return api

    try:
        api = await anyio.to_thread.run_sync(connect)
    except (DockerException, requests.RequestException, HTTPError, OSError) as error:
        raise engine_down(error) from error
    try:
        yield DockerImages(api)
    finally:
        api.close()


class DockerImages:
    """An ImageStore over docker-py's low-level client, which stays the caller's to close."""

    def __init__(self, api: APIClient) -> None:
        self._api = api
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def find(self, reference: str) -> StoredImage | None:
        try:
            found = await self._call(partial(self._api.inspect_image, reference))
        except ImageNotFound:
            return None
        return _inspected(found)

    async def labelled(self, label: str) -> list[StoredImage]:
        found = await self._call(partial(self._api.images, filters={"label": label}))
        return [_listed(image) for image in found]

    async def build(self, build: ImageBuild, *, log: Log) -> str:
        def start() -> Iterable[dict[str, Any]]:
            # The classic builder: BuildKit would need a gRPC session that docker-py does not speak.
            with build.context.open("rb") as context:
                events: Iterable[dict[str, Any]] = self._api.build(
                    fileobj=context, custom_context=True, tag=build.tag, labels=build.labels, rm=True,
                    forcerm=True, buildargs=build.arguments, network_mode="host", nocache=build.fresh,
                    pull=False, decode=True,
                )  # fmt: skip
                return events

        await self._follow(start, log, f"building {build.tag} failed")
        image = await self.find(build.tag)
        if image is None:
            raise EngineUnavailable(f"the engine reports success but has no {build.tag}")
        return image.id

    async def load_rootfs(self, tar: Path, *, tag: str, labels: dict[str, str]) -> str:
        repository, _, version = tag.rpartition(":")
        changes = [f'LABEL "{key}"="{value}"' for key, value in labels.items()]
        await self._call(
            partial(self._api.import_image, src=str(tar), repository=repository, tag=version, changes=changes)
        )
        image = await self.find(tag)
        if image is None:
            raise EngineUnavailable(f"the engine did not keep the root file system as {tag}")
        return image.id

    async def pull(self, reference: str, *, tag: str, log: Log) -> str:
        start = partial(self._api.pull, reference, stream=True, decode=True)
        await self._follow(start, log, f"pulling {reference} failed")
        repository, _, version = tag.rpartition(":")
        await self._call(partial(self._api.tag, reference, repository, version))
        found = await self._call(partial(self._api.inspect_image, reference))
        return str(next(iter(found.get("RepoDigests") or [found["Id"]])))

    async def remove(self, reference: str) -> None:
        try:
            await self._call(partial(self._api.remove_image, reference))
        except ImageNotFound:
            return

    async def _follow(self, start: Callable[[], Iterable[dict[str, Any]]], log: Log, failure: str) -> None:
        """Run a call that streams events in a thread, and log each. Cancelling stops listening;
        the engine ends the work when it notices that nobody reads."""
        stopped = threading.Event()

        def run() -> None:
            lines: list[str] = []
            for event in start():
                if stopped.is_set():
                    return
                for line in _lines(event):
                    lines = [*lines[1 - _TAIL :], line]
                    anyio.from_thread.run_sync(log, line)
                if "error" in event:
                    raise ConfigError(f"{failure}: {event['error']}".strip(), hint="\n".join(lines))

        try:
            await self._call(run, refusable=True)
        finally:
            stopped.set()

    async def _call(self, call: Callable[[], T], *, refusable: bool = False) -> T:
        """`refusable`: the engine answers for somebody else (a registry, a build step), and a
        failure of theirs comes as a server error of its own."""
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except ImageNotFound:
            if refusable:
                raise ConfigError("there is no such image") from None
            raise
        except APIError as error:
            if refusable or error.is_client_error():
                raise ConfigError(f"Docker refused: {error.explanation or error}") from error
            raise EngineUnavailable(f"Docker failed: {error.explanation or error}") from error
        except (DockerException, requests.RequestException, HTTPError, OSError) as error:
            raise engine_down(error) from error


def _lines(event: Mapping[str, Any]) -> list[str]:
    """Plain lines: what a package prints must not steer the operator's terminal."""
    text = _ESCAPE.sub("", str(event.get("stream") or event.get("status") or ""))
    return [line for line in text.splitlines() if line.strip()]


def _inspected(found: Mapping[str, Any]) -> StoredImage:
    return StoredImage(
        id=found["Id"],
        tags=tuple(found.get("RepoTags") or ()),
        labels=dict((found.get("Config") or {}).get("Labels") or {}),
        size=int(found["Size"]),
        created=_seconds(found["Created"]),
    )


def _listed(found: Mapping[str, Any]) -> StoredImage:
    return StoredImage(
        id=found["Id"],
        tags=tuple(tag for tag in found.get("RepoTags") or () if tag != "<none>:<none>"),
        labels=dict(found.get("Labels") or {}),
        size=int(found["Size"]),
        created=float(found["Created"]),
    )


def _seconds(created: str) -> float:
    # Docker prints nanoseconds and Z; fromisoformat reads at most six digits everywhere.
    return datetime.fromisoformat(created[:19] + "+00:00").timestamp()
