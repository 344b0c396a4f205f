"""CONNECT and SOCKS: who gets a tunnel, to where, and what may pass through it."""

# ruff: noqa: E501 - lists of hostile hosts

from __future__ import annotations

import json
import ssl
from dataclasses import replace

import anyio
import pytest

from tests.access.egress.world import (
    SITE,
    World,
    client_hello,
    echo,
    grant,
    records,
    rest,
    status,
    tls,
    until,
)

pytestmark = pytest.mark.anyio


def connect(authority: str, *lines: str) -> bytes:
    return "\r\n".join([f"CONNECT {authority} HTTP/1.1", *(lines or [f"Host: {authority}"]), "", ""]).encode()


async def test_without_a_rule_nothing_passes_and_nothing_is_looked_up(world: World) -> None:
    """E1, E17: a name that is not allowed leaves no trace, in a resolver least of all."""
    world.names["exfil-0123.evil.example"] = [["127.0.0.1"]]
    for request in (
        connect("exfil-0123.evil.example:443"),
        b"GET http://exfil-0123.evil.example/ HTTP/1.1\r\nHost: exfil-0123.evil.example\r\n\r\n",
    ):
        answer = await world.say(request)
        assert status(answer) == 403
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (told["error"], told["rule"], told["hint"]) == ("egress_denied", "default", "ask the operator")
        assert b"egress policy (default)" in answer.splitlines()[0]
    assert (world.lookups, world.dialled) == ([], [])
    assert [record.verdict for record in world.records] == ["denied", "denied"]


async def test_tls_to_an_allowed_host_passes_untouched(world: World) -> None:
    origin = await world.origin(tls=SITE)
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.public))
        await inner.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await rest(inner)).endswith(b"hi")
    [record] = world.records
    assert (record.principal, record.profile, record.rule, record.verdict) == (
        "somebody",
        "web",
        "r1",
        "allowed",
    )
    assert (record.host, record.port, record.address) == (SITE, origin.port, "127.0.0.1")
    assert record.bytes_out > 100 < record.bytes_in
    assert record.seconds > 0


async def test_another_port_of_an_allowed_host_is_denied(world: World) -> None:
    """E3."""
    world.allow(SITE, 443)
    assert status(await world.say(connect(f"{SITE}:22"))) == 403
    assert world.lookups == []


@pytest.mark.parametrize(
    "host",
    [
        "site.example.com%00.evil.com", "site.example.com@evil.com", "a b.com", "[[::1]]", "[::1", "::1",
        "site.example.com:443:443", "site.example.com\\.evil.com", "2130706433", "0x7f.1", "127.1", "0177.0.0.1",
        "localhost", "LOCALHOST.", "site.example.com..", ".site.example.com", "metadata.google.internal",
        "[fe80::1%25eth0]", "-site.example.com", "site_x.example.com", "xn--a.example.com", "*.example.com", "",
    ],
)  # fmt: skip
async def test_hosts_that_parsers_read_differently_are_refused(world: World, host: str) -> None:
    """E10."""
    world.rules = dict.fromkeys([(host, 443), (host.lower(), 443), (SITE, 443), ("127.0.0.1", 443)], grant())
    answer = await world.say(f"CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert status(answer) in (400, 403)
    assert world.dialled == []


@pytest.mark.parametrize(
    "host", [b"si\0te.example.com", b"site.example.com\r", b"site\n.example.com", b"s\xefte.com"]
)
async def test_control_characters_in_a_host_are_refused(world: World, host: bytes) -> None:
    """E10."""
    world.allow(SITE, 443)
    answer = await world.say(b"CONNECT " + host + b":443 HTTP/1.1\r\n\r\n")
    assert status(answer) in (400, 403)
    socks = await world.say(b"\5\1\0\5\1\0\3" + bytes([len(host)]) + host + b"\1\xbb")
    assert socks[:4] == b"\5\0\5\2"
    assert world.dialled == []


async def test_upper_case_and_a_last_dot_are_the_same_host(world: World) -> None:
    """E10."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    async with world.tunnel("SITE.Example.COM.", origin.port) as stream:
        await stream.send(b"ping")
        assert await stream.receive() == b"ping"
    assert world.asked[0].host == SITE


async def test_a_host_header_that_names_another_host_is_refused(world: World) -> None:
    """E6."""
    world.allow(SITE, 443)
    assert status(await world.say(connect(f"{SITE}:443", "Host: other.example.com:443"))) == 400
    assert world.dialled == []


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(client_hello("other.example.com"), id="another name"),
        pytest.param(client_hello("evil.com." + SITE), id="a longer name"),
        pytest.param(client_hello(None), id="no name"),
        pytest.param(client_hello(SITE, (0xFE0D, b"\0" * 64)), id="ECH"),
        pytest.param(client_hello(SITE, (0xFFCE, b"\0" * 64)), id="ESNI"),
        pytest.param(client_hello(SITE, (0, b"\0\5\0\0\2ab")), id="two name extensions"),
        pytest.param(client_hello(None, (0, b"\0\x0a\0\0\2ab\0\0\2cd")), id="two names"),
        pytest.param(client_hello(SITE + "\0.evil.com"), id="NUL"),
        pytest.param(client_hello(SITE)[:-3], id="cut"),
        pytest.param(b"\2" + client_hello(SITE)[1:], id="ServerHello"),
        pytest.param(b"\1\xff\xff\xff" + bytes(9), id="16 MiB"),
    ],
)
async def test_tls_must_ask_for_the_judged_name(world: World, message: bytes) -> None:
    """E6."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(records(message))
        await stream.send_eof()
        answer = await rest(stream)
    assert answer in (b"\x15\3\3\0\2\2\x31", b"")
    assert origin.seen == []
    assert world.records[0].reason
    assert world.records[0].bytes_in < 200


@pytest.mark.parametrize("size", [1, 7, 100, 16384])
async def test_a_hello_may_come_in_crumbs(world: World, size: int) -> None:
    """Fragments over records, and over packets."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port)
    sent = records(client_hello(SITE, (21, bytes(300))), size)
    async with world.tunnel(SITE, origin.port) as stream:
        for start in range(0, len(sent), 11):
            await stream.send(sent[start : start + 11])
        assert await until(stream, sent) == sent


async def test_opaque_lets_bytes_through_that_say_no_name(world: World) -> None:
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(b"\0SSH-like\xff")
        assert await stream.receive() == b"\0SSH-like\xff"


async def test_bytes_that_are_neither_tls_nor_http_do_not_pass(world: World) -> None:
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(b"\0\1\2\3")
        assert await rest(stream) == b""
    assert world.records[0].verdict == "denied"
    assert "opaque" not in world.records[0].reason


async def test_plain_http_in_a_tunnel_is_judged_like_any_other(world: World) -> None:
    """E2, E7: a tunnel is no way round rules for paths."""
    origin = await world.origin()
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(f"GET /open HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        assert (await until(stream, b"hi")).startswith(b"HTTP/1.1 200")
        await stream.send(f"GET /secret HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        assert status(await rest(stream)) == 403
    assert [each.split(b" ")[1] for each in origin.seen if each] == [b"/open"]
    assert [(record.kind, record.method, record.verdict) for record in world.records] == [
        ("http", "GET", "allowed"),
        ("http", "GET", "denied"),
        ("connect", None, "allowed"),
    ]
    assert (world.records[2].rule, world.records[2].reason) == ("r1", "a request in it was refused")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.8", "169.254.169.254", "192.168.1.1", "100.64.0.1", "::1", "fe80::1", "::ffff:10.0.0.1",
     "64:ff9b::a00:1", "2002:a00:1::1", "fd00:ec2::254", "0.0.0.0", "224.0.0.1"],
)  # fmt: skip
async def test_an_allowed_name_at_an_address_that_is_not_does_not_pass(world: World, address: str) -> None:
    """E8."""
    world.rules[SITE, 443] = grant(addresses=())
    world.names[SITE] = [[address]]
    answer = await world.say(connect(f"{SITE}:443"))
    assert status(answer) == 403
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["rule"] == "floor.address"
    assert world.dialled == []


async def test_an_opened_network_opens_no_metadata(world: World) -> None:
    """E8."""
    from ipaddress import ip_network

    world.rules[SITE, 80] = grant(addresses=(ip_network("169.254.0.0/16"),))
    world.names[SITE] = [["169.254.169.254"]]
    assert status(await world.say(connect(f"{SITE}:80"))) == 403
    assert world.dialled == []


async def test_one_bad_address_among_good_ones_denies_the_host(world: World) -> None:
    """E9."""
    world.rules[SITE, 443] = grant(addresses=())
    world.names[SITE] = [["93.184.216.34", "10.0.0.1"]]
    assert status(await world.say(connect(f"{SITE}:443"))) == 403
    assert world.dialled == []


async def test_a_name_is_resolved_once_and_the_judged_address_is_dialled(world: World) -> None:
    """E9: the second answer of a rebinding name is never asked for."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.names[SITE] = [["127.0.0.1"], ["10.0.0.1"]]
    async with world.tunnel(SITE, origin.port):
        pass
    assert world.lookups == [SITE]
    assert world.dialled == [("127.0.0.1", origin.port)]
    assert status(await world.say(connect(f"{SITE}:{origin.port}"))) == 403


async def test_a_policy_that_is_tightened_closes_what_is_open(world: World) -> None:
    """E11."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(b"x")
        await stream.receive()
        assert world.gateway.recheck() == 0
        world.rules[SITE, origin.port] = grant(opaque=True, addresses=())
        assert world.gateway.recheck() == 1
        assert await rest(stream) == b""
    assert world.records[0].reason == "the policy has changed"
    assert world.gateway.connections == 0


@pytest.mark.parametrize("number", ["bytes_out", "bytes_in", "tunnels", "idle", "total"])
async def test_a_policy_whose_limits_are_lower_closes_what_has_the_old_ones(
    world: World, number: str
) -> None:
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    async with world.tunnel(SITE, origin.port) as stream, world.client() as silent:
        await anyio.wait_all_tasks_blocked()
        world.limits = replace(world.limits, **{number: getattr(world.limits, number) + 1})
        assert world.gateway.recheck() == 0
        world.limits = replace(world.limits, **{number: getattr(world.limits, number) - 2})
        assert world.gateway.recheck() == 2
        assert await rest(stream) == await rest(silent) == b""


async def test_a_policy_that_breaks_denies(world: World) -> None:
    """E12."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    async with world.tunnel(SITE, origin.port) as stream:
        world.broken = KeyError("a bug")
        answer = await world.say(connect(f"{SITE}:{origin.port}"))
        assert status(answer) == 403
        assert b"a bug" not in answer
        world.gateway.recheck()
        assert await rest(stream) == b""


async def test_the_servers_own_port_is_never_reached(world: World) -> None:
    """E18: not even where loopback is opened."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.listening.add(origin.port)
    assert status(await world.say(connect(f"{SITE}:{origin.port}"))) == 403
    assert origin.connections == 0


# --- SOCKS


async def test_socks_with_a_name_or_an_address_gets_a_tunnel(world: World) -> None:
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.allow("127.0.0.1", origin.port, opaque=True)
    for address in (b"\3" + bytes([len(SITE)]) + SITE.encode(), b"\1\x7f\0\0\1"):
        async with world.client() as stream:
            await stream.send(b"\5\2\0\2")
            assert await stream.receive(2) == b"\5\0"
            await stream.send(b"\5\1\0" + address + origin.port.to_bytes(2, "big"))
            assert (await until(stream, bytes(6)))[:2] == b"\5\0"
            await stream.send(b"ping")
            assert await stream.receive() == b"ping"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(b"\5\1\2", b"\5\xff", id="password"),
        pytest.param(b"\5\1\0\5\2\0\1\1\1\1\1\0\x50", b"\5\0\5\7", id="BIND"),
        pytest.param(b"\5\1\0\5\3\0\1\0\0\0\0\0\0", b"\5\0\5\7", id="UDP"),
        pytest.param(b"\5\1\0\5\1\0\x09", b"\5\0\5\x08", id="kind"),
        pytest.param(b"\5\1\0\5\1\0\4" + bytes(15) + b"\1\0\x50", b"\5\0\5\2", id="IPv6 loopback"),
        pytest.param(b"\5\1\0\5\1\0\1\x7f\0\0\1\0\0", b"\5\0\5\2", id="port 0"),
        pytest.param(b"\5\1\0\5\1\0\3\x09localhost\0\x50", b"\5\0\5\2", id="localhost"),
        pytest.param(b"\5\1\0\5\1\0\3\x0f169.254.169.254\0\x50", b"\5\0\5\2", id="metadata"),
    ],
)
async def test_socks_refuses_in_its_own_words(world: World, said: bytes, answer: bytes) -> None:
    """E13."""
    world.rules = dict.fromkeys(
        [("[::1]", 80), ("169.254.169.254", 80), ("1.1.1.1", 80)], grant(addresses=())
    )
    assert (await world.say(said)).startswith(answer)
    assert world.dialled == []


async def test_a_name_that_does_not_resolve_and_a_port_that_is_closed_are_told_apart(world: World) -> None:
    world.rules[SITE, 443] = grant()
    assert status(await world.say(connect(f"{SITE}:443"))) == 502
    world.names[SITE] = [["127.0.0.1"]]
    origin = await world.origin()
    world.allow(SITE, 1)
    answer = await world.say(connect(f"{SITE}:1"))
    assert status(answer) == 502
    assert b"could not be connected to" in answer
    assert [record.verdict for record in world.records] == ["failed", "failed"]
    assert origin.connections == 0


async def test_a_client_that_trusts_nobody_ends_its_own_tunnel_only(world: World) -> None:
    origin = await world.origin(tls=SITE)
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError)):
            await tls(stream, SITE, ssl.create_default_context())
    assert world.gateway.connections == 0
