"""Control calls to the Docker Engine: a synchronous library kept off the event loop.

Every call runs in a thread under a limiter of our own: anyio's default one, 40 threads, is
shared with stdio's reads and writes, and a slow engine must not stall those.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import requests
from docker import APIClient
from docker.errors import APIError, DockerException
from urllib3.exceptions import HTTPError

from sandbox_server.errors import ConfigError, EngineUnavailable, ImageMissing, SandboxServerError

T = TypeVar("T")

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
THREADS = 32
TIMEOUT = 30
"""Seconds that the engine may stay silent within a control call."""


class DockerClient:
    """A connection to one engine. Made at the first call and again after a failure, so the
    engine may be down when this is constructed and may be restarted later."""

    def __init__(self, base_url: str | None = None) -> None:
        address = base_url or os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET
        self.base_url = address.rstrip("/")
        if not self.base_url.startswith(("unix://", "tcp://")) or os.environ.get("DOCKER_TLS_VERIFY"):
            raise ConfigError(
                f"engine address {self.base_url!r} is not supported",
                hint="use a unix:// socket or a plain tcp:// address; for TLS or ssh, forward the socket",
            )
        self._api: APIClient | None = None
        self._limiter = anyio.CapacityLimiter(THREADS)

    @property
    def is_local(self) -> bool:
        """Whether the engine runs on this very machine."""
        return self.base_url.startswith("unix://")

    @property
    def api_version(self) -> str:
        """The version of the API that was agreed on. Only after a `call` that worked."""
        if self._api is None:
            raise EngineUnavailable("the Docker Engine does not answer", hint="try again later")
        return self._api.api_version

    async def call(self, function: Callable[[APIClient], T], *, abandon: bool = False) -> T:
        """Run `function(api)` in a thread. Raises EngineUnavailable or ConfigError; errors of
        status 404 and 409 come through as docker's own, their meaning depends on the call.

        A cancelled caller waits for the call to end, unless `abandon` says that it may
        go on alone.
        """
        return await anyio.to_thread.run_sync(
            self._call, function, abandon_on_cancel=abandon, limiter=self._limiter
        )

    def _call(self, function: Callable[[APIClient], T]) -> T:
        api = self._api
        try:
            if self.is_local:
                _knock(self.base_url.removeprefix("unix://"))
            if api is None:
                # "auto" asks the engine: old ones refuse new versions, new ones refuse old versions.
                api = APIClient(self.base_url, version="auto", timeout=TIMEOUT, max_pool_size=THREADS)
                api.trust_env = False  # no HTTP proxy between us and our engine
                self._api = api
            return function(api)
        except APIError as error:
            if error.status_code in (404, 409):
                raise
            raise translate(error) from error
        except (DockerException, requests.RequestException, HTTPError, OSError) as error:
            self._api = None
            raise engine_down(error) from error

    def close(self) -> None:
        """Close idle connections. A later call opens new ones."""
        if self._api is not None:
            self._api.close()
            self._api = None


def _knock(path: str) -> None:
    """Raise OSError if nobody listens. The library would leave a socket open where this closes it."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(TIMEOUT)
        door.connect(path)


def engine_down(error: Exception) -> EngineUnavailable:
    """The error for an engine that doesn't answer, with what its operator can do."""
    text = str(error)
    if "Permission denied" in text:
        return EngineUnavailable(
            "this user may not talk to the Docker Engine", hint="run as root or join the group 'docker'"
        )
    if "timed out" in text.lower():
        return engine_silent()
    return EngineUnavailable(
        "the Docker Engine does not answer", hint="start it, e.g. systemctl start docker"
    )


def engine_silent() -> EngineUnavailable:
    """The error for an engine that takes the question and keeps the answer."""
    return EngineUnavailable("the Docker Engine does not answer in time", hint="try again later")


def image_missing(reference: str) -> ImageMissing:
    """The error for an image that isn't on the engine."""
    name = reference.rpartition("/")[2].partition(":")[0]
    return ImageMissing(
        f"image {reference!r} is not on the engine", hint=f"run: sandbox-server images build {name}"
    )


def translate(error: APIError) -> SandboxServerError:
    """What a refusal of the engine means to us, in its words but without the host's paths."""
    words = sanitise(str(error.explanation or error))
    if "unknown runtime" in words.lower() or "unknown or invalid runtime" in words.lower():
        return ConfigError(
            f"the engine lacks the runtime: {words}", hint="add it to daemon.json, or use runc"
        )
    # The image was found but its entry point was not: not one of ours, or a broken build.
    if "exec:" in words and ("no such file" in words or "not found" in words):
        return ConfigError("the image holds no runner", hint="run: sandbox-server images build")
    if error.status_code == 400:
        return ConfigError(f"the engine refuses the sandbox: {words}", hint="run: sandbox-server doctor")
    return EngineUnavailable(f"the engine failed: {words}", hint="run: sandbox-server doctor")


_HOST_PATH = re.compile(r"(?<![\w.])/(?:[\w.@:+-]+/)+[\w.@:+-]*")


def sanitise(words: str) -> str:
    """At most 300 characters of the engine's words, on one line, host paths left out."""
    return _HOST_PATH.sub("<path>", " ".join(words.split()))[:300]
