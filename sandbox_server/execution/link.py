"""Our end of a runner's wire: what comes is checked and handed to whom it is for, until the end of either.

`images/runner/README.md` documents the wire. Whatever the runner says is checked: a broken
frame, a wrong type or silence costs the sandbox its life, never the server its own.
"""

from __future__ import annotations

import logging

import anyio

from sandbox_server import wire
from sandbox_server.engines.base import Container, Death
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import EngineUnavailable
from sandbox_server.execution.channel import Channel
from sandbox_server.execution.transfers import Transfer
from sandbox_server.execution.way_out import WayOut
from sandbox_server.wire import Frame, Type

_log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 30.0
SEND_SECONDS = 2.0
DESTROY_SECONDS = 15.0
DEATH_SECONDS = 10.0


class Link:
    """A container and its runner. `pump` must be running in some task group for anything to come."""

    def __init__(self, container: Container, profile: Profile) -> None:
        self.container = container
        self.profile = profile
        self.lost = anyio.Event()
        self.runner: dict[str, object] = {}
        self.way_out = WayOut(self._send)
        self._channels: dict[int, Channel | Transfer] = {}
        self._sending = anyio.Lock(fast_acquire=True)
        self._greeting = anyio.Event()
        self._ready = anyio.Event()
        self._why = ""

    @property
    def alive(self) -> bool:
        return not self.lost.is_set()

    def _lose(self, why: str = "") -> None:
        """Nobody may use it or wait for it any more. `why` is our reason; without one the engine has it."""
        if not self.lost.is_set():
            self._why = why
        self.lost.set()
        self._greeting.set()
        self._ready.set()
        for channel in self._channels.values():
            channel.wake()
        self.way_out.lose()

    # --- the wire

    async def pump(self) -> None:
        """Read the wire until it ends, and serve what comes through tunnels."""
        async with anyio.create_task_group() as tasks:
            self.way_out.start(tasks)
            await self._read()
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        """Read the wire until it ends. Sets `lost` and wakes everybody who waits for an answer."""
        decoder = wire.Decoder()
        try:
            while True:
                for frame in decoder.feed(await self.container.stream.receive(256 * 1024)):
                    await self._take(frame)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            self._lose()
        except wire.WireError:
            # Its runner is not ours any more: nothing it says from here on may be believed.
            self._lose("its runner broke the protocol")
            await self.destroy()
        except Exception:
            # A bug of ours costs this sandbox, not the task group that all of them live in.
            _log.exception("the wire of a sandbox could not be read")
            self._lose("the server failed to read its wire")
            await self.destroy()
        finally:
            self._lose("the server stopped")

    async def _take(self, frame: Frame) -> None:
        if frame.type is Type.HELLO:
            if frame.json().get("protocol") != wire.PROTOCOL_VERSION:
                raise wire.WireError("another protocol version")
            self._greeting.set()
        elif frame.type is Type.READY:
            self.runner = dict(frame.json())
            self._ready.set()
        elif frame.channel >= wire.FIRST_TUNNEL:
            self.way_out.take(frame)
        elif channel := self._channels.get(frame.channel):
            owed = channel.take(frame)
            if owed:
                if isinstance(channel, Channel) and channel.capture:
                    # No more until the disk has this: that is what keeps it out of our memory.
                    await channel.capture.accept()
                await self._send(wire.encode_credit(frame.channel, owed))

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                if not self.alive:
                    return
                # Shielded: a frame cut by a cancellation would garble all that follow it.
                with anyio.move_on_after(SEND_SECONDS, shield=True) as scope:
                    await self.container.stream.send(data)
                if scope.cancelled_caught:
                    self._lose("its runner takes no more input")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            self._lose()

    async def greet(self) -> None:
        """Wait for the runner, hand over the set-up, wait until it is ready.

        Raises EngineUnavailable if it isn't in time or the sandbox ends first.
        """
        with anyio.move_on_after(HANDSHAKE_SECONDS):
            await self._greeting.wait()
            if self.alive:
                await self._send(wire.encode_json(Type.SETUP, 0, {"preload": list(self.profile.preload)}))
                await self._ready.wait()
        if not (self.alive and self._ready.is_set()):
            death = await self._death()
            raise EngineUnavailable(
                f"a new sandbox of image '{self.profile.image}' did not become ready: {death.reason}",
                hint="run 'sandbox-server doctor' on the host",
            )

    async def _death(self) -> Death:
        if self._why:
            return Death(None, False, self._why)
        with anyio.move_on_after(DEATH_SECONDS):
            try:
                return await self.container.death()
            except EngineUnavailable as error:
                return Death(None, False, error.message)
        return Death(None, False, "the engine does not say why")

    async def destroy(self) -> bool:
        """Destroy the container, shielded and bounded. Returns whether it is gone; if not, the
        engine does not answer and this can be called again. Raises nothing."""
        self._lose("the sandbox was destroyed")
        with anyio.CancelScope(shield=True), anyio.move_on_after(DESTROY_SECONDS):
            try:
                await self.container.destroy()
                return True
            except EngineUnavailable as error:
                _log.warning("a sandbox is not destroyed yet: %s", error.message)
            except Exception:
                _log.exception("a sandbox could not be destroyed")
        return False
