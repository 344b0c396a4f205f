"""The making of one container, which leaves nothing behind when it is given up half-way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import structlog
from docker import APIClient
from docker.errors import APIError, ImageNotFound

from sandbox_server.engines.docker.attach import AttachStream, attach
from sandbox_server.engines.docker.client import DockerClient, image_missing, translate
from sandbox_server.engines.docker.container import remove, try_remove
from sandbox_server.errors import ConfigError, EngineUnavailable

T = TypeVar("T")
log = structlog.get_logger()


class Birth:
    """Create, attach, start. Whoever calls `perform` and gets an exception calls `undo`."""

    def __init__(self, client: DockerClient, name: str) -> None:
        self._client = client
        self._name = name
        self._given_up = False

    async def perform(self, payload: dict[str, Any]) -> tuple[str, AttachStream]:
        """The started container's id and its stream, on which no byte has been lost.

        Raises EngineUnavailable or ConfigError.
        """
        try:
            created = await self._step(lambda api: _create(api, payload, self._name))
            _refuse_warnings(created.get("Warnings") or ())
            id = str(created["Id"])
            stream = await attach(self._client.base_url, self._client.api_version, id)
            try:
                await self._step(lambda api: api.start(id))
                # A call in a thread swallows a cancellation that came meanwhile: here it is heard.
                await anyio.lowlevel.checkpoint_if_cancelled()
            except BaseException:
                await anyio.aclose_forcefully(stream)
                raise
        except APIError as error:  # 404 and 409, which `call` leaves to us
            raise translate(error) from error
        return id, stream

    async def _step(self, function: Callable[[APIClient], T]) -> T:
        """A call that cleans up after itself if nobody waits for it any more: asyncio's own
        `Task.cancel`, which web servers use, goes through anyio's shields and leaves the thread
        alone with a container that is only about to exist."""

        def step(api: APIClient) -> T:
            try:
                return function(api)
            finally:
                if self._given_up:
                    try_remove(api, self._name)

        return await self._client.call(step)

    async def undo(self) -> None:
        """Remove whatever there is. By name, because the answer with the id may never have come."""
        # First the flag, then the removal: a step that ends before the removal sees the flag or
        # is seen by the removal.
        self._given_up = True
        with anyio.CancelScope(shield=True):
            try:
                await remove(self._client, self._name)
            except EngineUnavailable as error:
                log.warning(
                    "a failed start is left to the reaper", container=self._name, reason=error.message
                )


def _create(api: APIClient, payload: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        created: dict[str, Any] = api.create_container_from_config(payload, name)  # type: ignore[no-untyped-call]
    except ImageNotFound as error:
        raise image_missing(payload["Image"]) from error
    return created


def _refuse_warnings(warnings: list[str] | tuple[str, ...]) -> None:
    """The engine warns where it drops a limit, and goes on. We don't."""
    for warning in warnings:
        log.warning("the engine warns", warning=warning)
        if "discard" in warning.lower():
            raise ConfigError(f"the engine drops a limit: {warning}", hint="run: sandbox-server doctor")
