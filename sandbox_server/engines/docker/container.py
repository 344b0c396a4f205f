"""One started container of the Docker Engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import requests
from docker import APIClient
from docker.errors import APIError, NotFound

from sandbox_server.engines.base import Death
from sandbox_server.engines.docker.attach import AttachStream
from sandbox_server.engines.docker.client import DockerClient, sanitise
from sandbox_server.engines.docker.oom import was_out_of_memory
from sandbox_server.errors import EngineUnavailable

REMOVE_TIMEOUT = 10
"""Seconds after which a removal is left to the reaper."""
DETACH_AFTER = 0.5
"""Seconds that a removal may take before we let go of the container's stream."""
KILLED = 128 + 9
EXIT_GRACE = 2
"""Seconds that the engine may take to notice an exit after the stream has ended."""


class DockerContainer:
    """See `engines.base.Container`."""

    def __init__(
        self,
        client: DockerClient,
        stream: AttachStream,
        *,
        id: str,
        name: str,
        uid: int,
        forget: Callable[[DockerContainer], None],
    ) -> None:
        self._client = client
        self._stream = stream
        self._id = id
        self.name = name
        self.uid = uid
        self._forget = forget
        self._lock = anyio.Lock()
        self._destroyed = False

    @property
    def id(self) -> str:
        """The engine's id, 64 hexadecimal digits."""
        return self._id

    @property
    def stream(self) -> AttachStream:
        """The runner's wire."""
        return self._stream

    async def death(self) -> Death:
        """How the container ended, in the engine's words and the runner's last ones."""
        # After our own destroy the engine knows nothing any more: don't ask.
        if self._destroyed:
            return Death(None, False, "the sandbox was destroyed")
        wait = self._stream.ended
        try:
            state = await self._client.call(lambda api: _read_state(api, self._id, wait), abandon=True)
        except APIError:
            return Death(None, False, "the sandbox was removed")
        except EngineUnavailable as error:
            return Death(None, False, error.message)
        return self._describe(state)

    def _describe(self, state: dict[str, Any]) -> Death:
        oom = bool(state.get("OOMKilled"))
        if state.get("Running") or state.get("Paused"):
            return Death(None, oom, "the sandbox still runs")
        code = int(state.get("ExitCode", -1))
        reason = "out of memory" if oom else f"the runner ended with exit code {code}"
        for words in (str(state.get("Error") or ""), self._stream.diagnostics):
            if words:
                reason += f": {sanitise(words)}"
        return Death(code, oom, reason)

    async def destroy(self) -> None:
        """Kill and remove. Shielded from cancellation; takes about `REMOVE_TIMEOUT` at most."""
        with anyio.CancelScope(shield=True):
            async with self._lock:
                if self._destroyed:
                    return
                await self._remove()
                self._destroyed = True
                self._forget(self)

    async def _remove(self) -> None:
        # Not detached first: the runner would end by itself, and the removal meet that (see
        # `try_remove`). Not detached last: while nobody reads its output the engine can't finish it either.
        try:
            with anyio.move_on_after(DETACH_AFTER) as patience:
                await remove(self._client, self._id)
        finally:
            await anyio.aclose_forcefully(self._stream)
        if patience.cancelled_caught:
            await remove(self._client, self._id)


async def remove(client: DockerClient, container: str) -> None:
    """Kill and remove a container by id or name, however it stands. Gone already is fine.

    Raises EngineUnavailable if that could not be done within `REMOVE_TIMEOUT` seconds.
    """
    obstacle: str | None = "the engine does not answer"
    pause = 0.02
    with anyio.move_on_after(REMOVE_TIMEOUT):
        while obstacle := await client.call(lambda api: try_remove(api, container), abandon=True):
            await anyio.sleep(pause)
            pause = min(2 * pause, 1.0)
    if obstacle:
        raise EngineUnavailable(
            f"a sandbox could not be removed in time: {obstacle}", hint="the reaper tries again"
        )


def try_remove(api: APIClient, container: str) -> str | None:
    """None once the container is gone, otherwise why it has to be tried again."""
    try:
        api.remove_container(container, v=True, force=True)
    except NotFound:
        return None
    except APIError as error:
        if error.status_code == 409:
            # Somebody else removes it, and done is when the engine doesn't know it any more;
            # or this engine doesn't remove what is paused.
            _thaw(api, container)
        elif not error.is_server_error():
            raise
        # 5xx: 20.10 fails with "directory not empty" when a removal meets the handling of a
        # container's own exit. The second try works.
        return sanitise(str(error.explanation or error))
    return None


def _thaw(api: APIClient, container: str) -> None:
    """A frozen process does not take its SIGKILL; some engines refuse to remove it for that."""
    try:
        api.unpause(container)
    except APIError as error:
        if error.status_code not in (404, 409, 500):  # gone, or not paused
            raise


def _read_state(api: APIClient, container: str, wait: bool) -> dict[str, Any]:
    if wait:
        try:
            api.wait(container, timeout=EXIT_GRACE)
        except requests.RequestException as error:
            # Still running after all: a stream can break without its container.
            if isinstance(error, APIError):
                raise
    state: dict[str, Any] = api.inspect_container(container)["State"]
    if state.get("ExitCode") == KILLED and not state.get("OOMKilled") and not state.get("Running"):
        state["OOMKilled"] = was_out_of_memory(api, container)
    return state
