"""Just enough of the wire's host side to talk to the runner in a container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox_server import wire
from sandbox_server.engines.base import Container
from sandbox_server.wire import Decoder, Frame, Type, encode, encode_json


@dataclass
class Finished:
    """What a run wrote, decoded, and its CLOSE."""

    stdout: str
    stderr: str
    report: dict[str, Any]


class Driver:
    """One operation at a time; credit is given back as output comes."""

    def __init__(self, container: Container) -> None:
        self._stream = container.stream
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._channel = 0

    async def receive(self) -> Frame:
        """The next frame of the runner."""
        while not self._frames:
            self._frames.extend(self._decoder.feed(await self._stream.receive()))
        return self._frames.pop(0)

    async def greet(self) -> dict[str, Any]:
        """HELLO, SETUP, READY; returns what READY says."""
        hello = await self.receive()
        assert (hello.type, hello.json()) == (Type.HELLO, {"protocol": wire.PROTOCOL_VERSION})
        await self._stream.send(encode_json(Type.SETUP, 0, {"preload": []}))
        ready = await self.receive()
        assert ready.type is Type.READY
        return ready.json()

    async def open(self, request: dict[str, Any]) -> int:
        """Start an operation; returns its channel."""
        self._channel += 1
        await self._stream.send(encode_json(Type.OPEN, self._channel, request))
        return self._channel

    async def ping(self) -> dict[str, Any]:
        """The runner's answer to a ping."""
        await self.open({"op": "ping"})
        return (await self.receive()).json()

    async def run(self, code: str, **changes: Any) -> Finished:
        """Run Python code (or, with `mode="spawn"` and `argv`, anything) to its end."""
        request = {"op": "run", "mode": "fork", "file": "main.py", "argv": [], "code": code, "args": []}
        channel = await self.open({**request, "stdin": False, "keep": False, "cpu": None, **changes})
        return await self.finish(channel)

    async def finish(self, channel: int) -> Finished:
        """Collect the output of a run until its CLOSE."""
        output = {Type.STDOUT: b"", Type.STDERR: b"", Type.SIDE: b""}
        while (frame := await self.receive()).type is not Type.CLOSE:
            if frame.type is Type.CREDIT:
                continue
            output[frame.type] += frame.payload
            await self._stream.send(wire.encode_credit(channel, len(frame.payload)))
        texts = [output[kind].decode("utf-8", "replace") for kind in (Type.STDOUT, Type.STDERR)]
        return Finished(*texts, frame.json())

    async def cancel(self, channel: int) -> None:
        """Ask the runner to kill the run."""
        await self._stream.send(encode(Type.CANCEL, channel))
