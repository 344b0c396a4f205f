"""The first byte tells what a program speaks: SOCKS5, or HTTP. Then what a tunnel carries is looked at."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from sandbox_server.access.egress import socks
from sandbox_server.access.egress.answers import TLS_ACCESS_DENIED
from sandbox_server.access.egress.connection import Connection, in_time
from sandbox_server.access.egress.hello import BadHello, HelloReader
from sandbox_server.access.egress.models import Connect, Refused
from sandbox_server.access.egress.requests import Exchange, Target
from sandbox_server.access.egress.streams import relay
from sandbox_server.guards.names import canonical_host
from sandbox_server.guards.urls import UrlRefused
from sandbox_server.guards.web import EgressGrant

_PORT = re.compile(r"[1-9][0-9]{0,4}")
_TLS = 22


async def speak(connection: Connection) -> None:
    """Serve a connection to its end. Raises Refused once the program was told."""
    client = connection.client
    with in_time():
        first = await client.receive(1)
    client.unread(first)
    if first[0] == socks.VERSION:
        await _speak_socks(connection)
    else:
        await _speak_http(connection)


async def decline(connection: Connection, refused: Refused) -> None:
    """Tell a program, in what it speaks, that its connection is not taken. Nothing it asks for is judged."""
    client = connection.client
    client.answering = True
    with connection.told() as story:
        story.reason = refused.message
        first = await client.receive(1)
        client.unread(first)
        if first[0] != socks.VERSION:
            await Exchange(connection, client).decline(refused, story)
            return
        with suppress(Refused):
            await socks.handshake(client)
        await socks.reply(client, refused.socks)


async def _speak_socks(connection: Connection) -> None:
    client = connection.client
    with connection.told("socks5") as story:
        try:
            with in_time():
                host, port = await socks.handshake(client)
            grant, server = await _open(connection, host, port)
        except Refused as refused:
            story.refused(refused)
            client.answering = True
            await socks.reply(client, refused.socks)
            raise
        async with _let_go(server):
            await socks.reply(client, 0)
            await _carry(connection, host, port, grant, server)


async def _speak_http(connection: Connection) -> None:
    exchange = Exchange(connection, connection.client)
    request = await exchange.serve()
    if request is None:
        return
    with connection.told("connect") as story:
        try:
            host, port = _authority(request)
            grant, server = await _open(connection, host, port)
        except Refused as refused:
            await exchange.refuse(refused, story)
            raise
        async with _let_go(server):
            connection.client.unread(await exchange.accept_connect())
            await _carry(connection, host, port, grant, server)


def _authority(request: h11.Request) -> tuple[str, int]:
    """Of CONNECT. Raises Refused."""
    host, port = parse_authority(request.target)
    for name, value in request.headers:
        if name == b"host" and value.lower() not in (request.target.lower(), host.encode()):
            raise Refused("the Host header names another host than CONNECT", status=400)
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise Refused("CONNECT has no body", status=400)
    return host, port


def parse_authority(target: bytes) -> tuple[str, int]:
    """`host:port`, in canonical form. Raises Refused."""
    text = target.decode("ascii", errors="replace")
    host, colon, port = text.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise Refused("CONNECT needs host:port", status=400)
    try:
        return canonical_host(host), int(port)
    except UrlRefused as error:
        raise Refused(str(error), rule=f"floor.{error.reason}") from None


async def _open(connection: Connection, host: str, port: int) -> tuple[EgressGrant, ByteStream | None]:
    """Judge and, unless each request will be, connect. Raises Refused."""
    grant = connection.judge(Connect(connection.access.profile, host, port, "https"))
    if grant.terminate:
        if connection.gateway.authority is None:
            raise Refused("this host is terminated, but the server has no authority", rule=grant.rule)
        return grant, None
    return grant, await connection.dial(host, port, grant)


@asynccontextmanager
async def _let_go(server: ByteStream | None) -> AsyncIterator[None]:
    """Closes it, also where the program could not even be told that it is there."""
    try:
        yield
    finally:
        if server is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await server.aclose()


# --- what a tunnel carries


async def _carry(
    connection: Connection, host: str, port: int, grant: EgressGrant, server: ByteStream | None
) -> None:
    if grant.opaque and server is not None:
        await relay(connection.client, server)
        return
    with in_time():
        first = await connection.client.receive(1)
    connection.client.unread(first)
    if first[0] == _TLS:
        await _carry_tls(connection, host, port, server)
    elif first.isalpha():
        if server is not None:
            await server.aclose()
        await _carry_http(connection, Target("http", host, port))
    else:
        raise Refused(
            "the tunnel carries neither TLS nor HTTP",
            rule=grant.rule,
            hint="the operator can let such bytes through with 'opaque: true'",
        )


async def _carry_tls(connection: Connection, host: str, port: int, server: ByteStream | None) -> None:
    client = connection.client
    try:
        with in_time():
            seen = await _check_hello(connection, host)
    except Refused as refused:
        if connection.story is not None:
            connection.story.refused(refused)
        client.answering = True
        await client.send(TLS_ACCESS_DENIED)
        raise
    client.unread(seen)
    if server is not None:
        await relay(client, server)
        return
    authority = connection.gateway.authority
    assert authority is not None
    try:
        with in_time():
            stream = await TLSStream.wrap(
                client, server_side=True, ssl_context=authority.context(host), standard_compatible=False
            )
    except ssl.SSLError as error:
        raise Refused(
            f"the program does not trust the server's authority: {error.reason}", verdict="failed"
        ) from None
    await _carry_http(connection, Target("https", host, port), stream)


async def _check_hello(connection: Connection, host: str) -> bytes:
    """The bytes of a ClientHello that asks for `host` and for nothing else. Raises Refused."""
    reader, seen, hello = HelloReader(), b"", None
    pieces = []
    try:
        while hello is None:
            pieces.append(await connection.client.receive())
            hello = reader.feed(pieces[-1])
    except BadHello as error:
        raise Refused(str(error), rule="floor.tls") from None
    seen = b"".join(pieces)
    opaque = "the operator can allow it with 'opaque: true'"
    if hello.encrypted:
        raise Refused("the server name is encrypted (ECH)", rule="floor.sni", hint=opaque)
    if hello.name is None:
        raise Refused("TLS without a server name", rule="floor.sni", hint=opaque)
    try:
        same = canonical_host(hello.name) == host
    except UrlRefused:
        same = False
    if not same:
        raise Refused("TLS asks for another server name than CONNECT", rule="floor.sni")
    return seen


async def _carry_http(connection: Connection, target: Target, stream: ByteStream | None = None) -> None:
    """Requests in a tunnel, each of which is judged and reported by itself."""
    await Exchange(connection, stream or connection.client, target).serve()
