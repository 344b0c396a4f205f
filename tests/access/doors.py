"""For tests of the bypass list: a port that must not be touched, and a program's end of the proxy."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from sandbox_server.execution.egress import EgressAccess, Outlet
from tests.access.whole import Whole


class Canary:
    """Listens at every address of this host, and answers nobody."""

    def __init__(self) -> None:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._socket = socket.create_server(("", 0), family=family, backlog=128, dualstack_ipv6=both)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def touched(self) -> int:
        """How often it was connected to since it was asked last."""
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()


class Program:
    """A program in a sandbox, as far as the proxy can tell."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def say(self, data: bytes) -> bytes:
        """All that comes back, until the proxy closes the connection."""
        told = b""
        with anyio.fail_after(20):
            async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
                await stream.send(data)
                try:
                    while True:
                        told += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return told

    async def refused(self, host: str, port: int) -> list[str]:
        """By which doors it is not let out to a host: `http`, `connect`, `socks`."""
        raw = host.encode()
        asked = {
            "http": b"GET http://%b:%d/ HTTP/1.1\r\nHost: %b:%d\r\nConnection: close\r\n\r\n"
            % (raw, port, raw, port),
            "connect": b"CONNECT %b:%d HTTP/1.1\r\nHost: %b:%d\r\n\r\n" % (raw, port, raw, port),
            "socks": b"\5\1\0\5\1\0\3" + bytes([len(raw)]) + raw + port.to_bytes(2, "big"),
        }
        found = []
        for door, data in asked.items():
            told = await self.say(data)
            if told[:4] == b"\5\0\5\2" if door == "socks" else told.split(b" ")[1:2] in ([b"403"], [b"400"]):
                found.append(door)
        return found


@asynccontextmanager
async def program_of(here: Whole, profile: str) -> AsyncIterator[Program]:
    """With a way out by that profile of the policy."""
    outlet = here.enforced.outside.gateway.outlet(EgressAccess(profile, "anonymous", here.enforced.local))
    async with program_with(outlet) as program:
        yield program


@asynccontextmanager
async def program_with(outlet: Outlet) -> AsyncIterator[Program]:
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def serve(stream: ByteStream) -> None:
        async with stream:
            await outlet.serve(stream)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield Program(listener.extra(SocketAttribute.local_port))
        tasks.cancel_scope.cancel()
