"""A server process and a client that speaks to it line by line: what the tests need to kill it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


class Peer:
    """The client's side of the wire of one server."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._lines = BufferedByteReceiveStream(process.stdout)
        self._id = 0

    async def send(self, method: str, params: dict[str, Any] | None = None, **fields: Any) -> None:
        assert self.process.stdin is not None
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}, **fields}
        await self.process.stdin.send(json.dumps(message).encode() + b"\n")

    async def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result. Whatever else comes on the wire must be JSON-RPC, too."""
        self._id += 1
        await self.send(method, params, id=self._id)
        while True:
            message = json.loads(await self._lines.receive_until(b"\n", 64 * 1024 * 1024))
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == self._id:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def open(self) -> None:
        await self.request("initialize", HELLO)
        await self.send("notifications/initialized")

    async def leave(self) -> None:
        """As clients leave: the server ends in order."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        await self.process.wait()

    async def execute(self, code: str) -> dict[str, Any]:
        return await self.request("tools/call", {"name": "code_execution", "arguments": {"code": code}})


@asynccontextmanager
async def serving(command: list[str], environ: dict[str, str]) -> AsyncIterator[Peer]:
    """A server over stdio, its handshake done. Killed at the end, if it has not ended by itself."""
    process = await anyio.open_process(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        peer = Peer(process)
        await peer.open()
        yield peer
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()
            await process.aclose()
