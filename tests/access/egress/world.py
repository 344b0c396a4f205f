"""A gateway on loopback, servers behind it, and names, rules and clocks in the test's hands."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup
from anyio.streams.tls import TLSListener, TLSStream

from sandbox_server.access.egress import Authority, Connect, ConnectionRecord, Dialler, Gateway
from sandbox_server.access.egress.trust import server_context
from sandbox_server.errors import PolicyDenied
from sandbox_server.execution.egress import EgressAccess, Outlet
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.web import EgressGrant, EgressLimits

LOOPBACK = (ip_network("127.0.0.0/8"),)
ACCESS = EgressAccess("web", "somebody")
SITE = "site.example.com"


def grant(rule: str = "r1", **changes: Any) -> EgressGrant:
    return EgressGrant(rule, **{"addresses": LOOPBACK, **changes})


@dataclass
class Origin:
    """A server that keeps what it was sent, and answers every request alike."""

    port: int
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    seen: list[bytes] = field(default_factory=list)
    connections: int = 0
    handler: Callable[[ByteStream], Any] | None = None

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await (self.handler or self._answer)(stream)

    async def _answer(self, stream: ByteStream) -> None:
        data = b""
        self.seen.append(data)
        at = len(self.seen) - 1
        while not complete(data):
            data += await stream.receive()
            self.seen[at] = data
        await stream.send(self.answer)


def complete(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    if b"chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return True


async def echo(stream: ByteStream) -> None:
    while True:
        await stream.send(await stream.receive())


@dataclass
class World:
    tasks: TaskGroup
    directory: Path
    rules: dict[tuple[str, int], EgressGrant] = field(default_factory=dict)
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    """What each lookup of a name answers, one after the other; the last for ever."""
    limits: EgressLimits = field(default_factory=EgressLimits)
    secrets: dict[str, str] = field(default_factory=dict)
    asked: list[Connect] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    records: list[ConnectionRecord] = field(default_factory=list)
    listening: set[int] = field(default_factory=set)
    broken: Exception | None = None
    listeners: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.public = Authority.load(self.directory / "public")
        self.authority = Authority.load(self.directory / "own")
        self.gateway = Gateway(
            self._judge,
            lambda profile: self.limits,
            dialler=Dialler(
                self._resolve, self._dial, own=lambda: (), listening=lambda _, port: port in self.listening
            ),
            on_connection=self.records.append,
            secrets=self.secrets.__getitem__,
            authority=self.authority,
            tls=server_context(self.public.pem),
        )
        self.outlet: Outlet = self.gateway.outlet(ACCESS)

    def clear(self) -> None:
        """No rules, names or records any more."""
        for each in (self.rules, self.names, self.asked, self.lookups, self.dialled, self.records):
            each.clear()
        self.limits = EgressLimits()

    def allow(self, host: str, port: int, **changes: Any) -> None:
        self.rules[host, port] = grant(**changes)
        self.names.setdefault(host, [["127.0.0.1"]])

    def _judge(self, connect: Connect) -> EgressGrant:
        self.asked.append(connect)
        if self.broken:
            raise self.broken
        found = self.rules.get((connect.host, connect.port))
        if found is None or (connect.path or "").startswith("/secret"):
            raise PolicyDenied(
                f"no rule allows {connect.host}:{connect.port}", rule="default", hint="ask the operator"
            )
        return found

    async def _resolve(self, host: str, port: int, principal: str) -> Sequence[IPAddress]:
        self.lookups.append(host)
        answers = self.names.get(host, [[]])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(each) for each in answer]

    async def _dial(self, address: IPAddress, port: int) -> ByteStream:
        self.dialled.append((str(address), port))
        return await anyio.connect_tcp(str(address), port)

    async def origin(self, *, tls: str | None = None, **changes: Any) -> Origin:
        """A server on loopback; with `tls`, it has a public certificate for that host."""
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
        origin = Origin(listener.extra(SocketAttribute.local_port), **changes)
        if tls:
            listener = TLSListener(listener, self.public.context(tls), standard_compatible=False)
        self.listeners.append(listener)
        self.tasks.start_soon(listener.serve, origin.serve)
        return origin

    @asynccontextmanager
    async def client(self, outlet: Outlet | None = None) -> AsyncIterator[ByteStream]:
        """A program's connection to the proxy."""
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
        done = anyio.Event()

        async def serve(stream: ByteStream) -> None:
            async with stream:
                await (outlet or self.outlet).serve(stream)
            done.set()

        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            port = listener.extra(SocketAttribute.local_port)
            with anyio.fail_after(20):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    yield stream
                await done.wait()
            tasks.cancel_scope.cancel()

    async def say(self, data: bytes, outlet: Outlet | None = None) -> bytes:
        """All that comes back until the proxy closes the connection."""
        async with self.client(outlet) as stream:
            await stream.send(data)
            return await rest(stream)

    async def get(self, url: str, *lines: str, method: str = "GET", body: bytes = b"") -> bytes:
        host = url.split("/")[2]
        head = [f"{method} {url} HTTP/1.1", f"Host: {host}", "Connection: close", *lines]
        return await self.say("\r\n".join([*head, "", ""]).encode() + body)

    @asynccontextmanager
    async def tunnel(self, host: str, port: int) -> AsyncIterator[ByteStream]:
        async with self.client() as stream:
            await stream.send(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            yield stream

    def trusting(self, authority: Authority) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context


async def until(stream: ByteStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        data += await stream.receive(1)
    return data


async def rest(stream: ByteStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return data


async def tls(stream: ByteStream, name: str, context: ssl.SSLContext) -> TLSStream:
    return await TLSStream.wrap(stream, hostname=name, ssl_context=context, standard_compatible=False)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def client_hello(name: str | None, *extensions: tuple[int, bytes]) -> bytes:
    """A handshake message with these extensions."""
    listed = list(extensions)
    if name is not None:
        inner = b"\0" + len(name).to_bytes(2, "big") + name.encode()
        listed.append((0, len(inner).to_bytes(2, "big") + inner))
    block = b"".join(kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for kind, data in listed)
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(block).to_bytes(2, "big") + block
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int = 16384) -> bytes:
    """A handshake message in records of that size."""
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(b"\x16\3\1" + len(piece).to_bytes(2, "big") + piece for piece in pieces)
