"""Servers on loopback that answer as a test says, a resolver that it controls, and a client between them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSListener

from sandbox_server.access.http.client import Client
from sandbox_server.access.http.models import Judge, WebRequest, WebResult
from sandbox_server.access.http.trust import tls_context
from sandbox_server.access.secrets import Secrets
from sandbox_server.errors import PolicyDenied, UpstreamUnreachable
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.hosts import HostPattern
from sandbox_server.guards.urls import Url, parse_url
from sandbox_server.guards.web import WebGrant, WebLimits

LOOPBACK = (ip_network("127.0.0.1/32"), ip_network("::1/128"))
HOST = "api.example.test"
QUICK = WebLimits(total=5, connect=2, first_byte=2)


@dataclass
class Seen:
    """A request as it came over the wire."""

    head: str
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split("\r\n")[0]

    @property
    def method(self) -> str:
        return self.head.split(" ")[0]

    @property
    def target(self) -> str:
        return self.head.split(" ")[1]

    def header(self, name: str) -> str | None:
        found = [
            value.strip()
            for each, _, value in (line.partition(":") for line in self.head.split("\r\n")[1:])
            if each.lower() == name.lower()
        ]
        assert len(found) < 2, f"{name} was sent {len(found)} times"
        return found[0] if found else None


Script = Callable[[Seen, ByteStream], Awaitable[None]]


@dataclass
class Server:
    """`seen` are the requests it had, `connections` how often it was connected to."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0


def answer(body: bytes | str = b"ok", status: str = "200 OK", **headers: str) -> Script:
    """Answers every request with this."""
    data = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": "text/plain", "Content-Length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return raw(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data)


def raw(data: bytes) -> Script:
    """Answers with exactly these bytes."""

    async def script(seen: Seen, stream: ByteStream) -> None:
        await stream.send(data)

    return script


def routes(**scripts: Script) -> Script:
    """By the first segment of the path."""

    async def script(seen: Seen, stream: ByteStream) -> None:
        await scripts[seen.target[1:].partition("/")[0].partition("?")[0]](seen, stream)

    return script


@asynccontextmanager
async def serve(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    server = Server()

    async def handle(stream: ByteStream) -> None:
        async with stream:
            server.connections += 1
            try:
                seen = await _request(stream)
                server.seen.append(seen)
                await script(seen, stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
                return  # the client has enough of it

    listener: Any = await anyio.create_tcp_listener(local_host=host)
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if tls is not None:
        listener = TLSListener(listener, ssl_context=tls, standard_compatible=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield server
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def _request(stream: ByteStream) -> Seen:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    seen = Seen(head.decode("latin-1"), body)
    while len(seen.body) < int(seen.header("content-length") or 0):
        seen.body += await stream.receive()
    return seen


class Names:
    """Each name's answers in turn; the last one stays. Asking for another name is a name without address."""

    def __init__(self, **answers: Sequence[str] | Sequence[Sequence[str]]) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, list[Sequence[str]]] = {}
        for name, each in answers.items():
            turns = [each] if each and isinstance(each[0], str) else list(each)
            self._answers[name.replace("__", ".")] = turns  # type: ignore[assignment]

    async def resolve(self, host: str, port: int, principal: str = "") -> Sequence[IPAddress]:
        self.asked.append(host)
        turns = self._answers.get(host)
        if turns is None:
            raise UpstreamUnreachable(f"{host} has no address.", reason="web.dns")
        return [ip_address(each) for each in (turns.pop(0) if len(turns) > 1 else turns[0])]


class Everywhere:
    """Every name is on loopback."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int, principal: str = "") -> Sequence[IPAddress]:
        self.asked.append(host)
        return [ip_address("127.0.0.1")]


def allow(*hosts: str, **grant: Any) -> Judge:
    """A judge as simple as one can be: these hosts, on any port, by the rule `test`. It opens loopback."""
    patterns = [HostPattern.parse(host) for host in hosts or (HOST,)]
    defaults: dict[str, Any] = {"rule": "test", "addresses": LOOPBACK, "limits": QUICK}

    def judge(method: str, url: Url, size: int) -> WebGrant:
        if not any(pattern.matches(url.host) for pattern in patterns):
            raise PolicyDenied(f"No rule allows {url}.", rule="default")
        return WebGrant(**{**defaults, **grant})

    return judge


@cache
def _system_trust() -> ssl.SSLContext:
    return tls_context()


def client(
    resolver: Any = None,
    *,
    secrets: Mapping[str, str] | None = None,
    ca: Path | None = None,
    own: Iterable[str] = (),
    **more: Any,
) -> Client:
    mine = frozenset(ip_address(each) for each in own)
    return Client(
        resolver=resolver or Everywhere(),
        secrets=Secrets({f"SANDBOX_SECRET_{name.upper()}": value for name, value in (secrets or {}).items()}),
        tls=_system_trust() if ca is None else tls_context(ca),
        own_addresses=lambda: mine,
        **more,
    )


async def fetch(
    url: str,
    judge: Judge | None = None,
    *,
    by: Client | None = None,
    principal: str = "alice",
    method: Any = "GET",
    **request: Any,
) -> WebResult:
    asked = WebRequest(method=method, url=parse_url(url), **request)
    with anyio.fail_after(20):
        return await (by or client()).fetch(asked, judge or allow(), principal=principal)
