"""What the guards of `web_api` cost: the checked client beside a bare httpx2 call, on loopback, in turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import anyio
import httpx2
from anyio.abc import SocketAttribute, SocketStream

from bench.context import Bench
from bench.report import Row
from bench.stats import Samples
from sandbox_server.access.http.client import Client
from sandbox_server.access.http.models import WebRequest
from sandbox_server.access.http.trust import tls_context
from sandbox_server.access.secrets import Secrets
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.urls import Url, parse_url
from sandbox_server.guards.web import WebGrant

TARGET = 0.001
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_GRANT = WebGrant(rule="bench", addresses=(ip_network("127.0.0.1/32"),))


class Loopback:
    """Both sides are spared the resolver: httpx2's URL has an address."""

    async def resolve(self, host: str, port: int, principal: str) -> Sequence[IPAddress]:
        return [ip_address("127.0.0.1")]


def judge(method: str, url: Url, size: int) -> WebGrant:
    return _GRANT


async def measure(bench: Bench) -> None:
    bench.say("web_api's client beside a bare httpx2 call")
    bare, guarded = await overhead(bench.times(500, 50))
    extra = guarded.p50 - bare.p50
    bench.rows += [
        Row.of("httpx2: GET on loopback", bare),
        Row.of(
            "web_api's client: the same, judged",
            guarded,
            target="guards <= 1 ms p50",
            ratio=extra / TARGET,
            bound=1.0,
            note=f"{1000 * extra:+.2f} ms",
        ),
    ]


async def overhead(count: int) -> tuple[Samples, Samples]:
    """(bare, guarded) of `count` calls each. Both make a connection for each call."""
    bare, guarded = Samples(), Samples()
    guard = Client(resolver=Loopback(), secrets=Secrets({}), tls=tls_context())
    async with _server() as port, httpx2.AsyncClient(trust_env=False) as client:

        async def plain() -> None:
            response = await client.get(f"http://127.0.0.1:{port}/", headers={"Connection": "close"})
            assert response.text == "ok"

        async def checked() -> None:
            request = WebRequest("GET", parse_url(f"http://api.example.test:{port}/"))
            assert (await guard.fetch(request, judge, principal="bench")).body.text == "ok"

        for _ in range(count // 10):
            await plain()
            await checked()
        for _ in range(count):
            await bare.time(plain)
            await guarded.time(checked)
    return bare, guarded


@asynccontextmanager
async def _server() -> AsyncIterator[int]:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(_ANSWER)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()
