"""SOCKS5 as far as programs need it: CONNECT, without a password. No UDP and no BIND."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from sandbox_server.access.egress.models import Refused
from sandbox_server.access.egress.streams import Client
from sandbox_server.guards.names import canonical_host
from sandbox_server.guards.urls import UrlRefused

VERSION = 5
_NO_PASSWORD, _NOTHING_SUITS = 0, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_BAD_COMMAND, _BAD_ADDRESS = 7, 8


async def handshake(client: Client) -> tuple[str, int]:
    """Which host and port is asked for. Raises Refused, which `reply` then tells."""
    _version, count = await client.exactly(2)
    methods = await client.exactly(count)
    if _NO_PASSWORD not in methods:
        await client.send(bytes((VERSION, _NOTHING_SUITS)))
        raise Refused("this SOCKS proxy takes no password", socks=-1)
    await client.send(bytes((VERSION, _NO_PASSWORD)))
    version, command, _reserved, kind = await client.exactly(4)
    if version != VERSION:
        raise Refused("a broken SOCKS request", socks=1)
    host = await _host(client, kind)
    port = int.from_bytes(await client.exactly(2), "big")
    if command != _CONNECT:
        raise Refused("of SOCKS only CONNECT is there: no UDP, no BIND", socks=_BAD_COMMAND)
    try:
        canonical = canonical_host(host.decode("ascii"))
    except UnicodeDecodeError:
        raise Refused("the host is not ASCII: write it as an A-label") from None
    except UrlRefused as error:
        raise Refused(str(error), rule=f"floor.{error.reason}") from None
    if not port:
        raise Refused("port 0 can't be connected to")
    return canonical, port


async def _host(client: Client, kind: int) -> bytes:
    if kind == _IPV4:
        return str(IPv4Address(await client.exactly(4))).encode()
    if kind == _IPV6:
        return f"[{IPv6Address(await client.exactly(16))}]".encode()
    if kind == _NAME:
        (length,) = await client.exactly(1)
        return await client.exactly(length)
    raise Refused("an unknown kind of address", socks=_BAD_ADDRESS)


async def reply(client: Client, code: int) -> None:
    """0 is success. -1: everything was said."""
    if code >= 0:
        await client.send(bytes((VERSION, code, 0, _IPV4, 0, 0, 0, 0, 0, 0)))
