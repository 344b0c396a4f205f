"""Plain HTTP, and HTTP inside TLS that the server terminates: every request is judged and written anew."""

# ruff: noqa: E501 - lists of hostile requests

from __future__ import annotations

import base64
import json

import anyio
import pytest

from sandbox_server.guards.web import EgressLimits
from tests.access.egress.world import SITE, World, rest, status, tls, until

pytestmark = pytest.mark.anyio


async def site(world: World, **changes: object) -> tuple[str, int]:
    origin = await world.origin()
    world.allow(SITE, origin.port, **changes)
    world.origins = [origin]  # type: ignore[attr-defined]
    return f"http://{SITE}:{origin.port}", origin.port


def seen(world: World) -> list[bytes]:
    return [data for data in world.origins[0].seen if data]  # type: ignore[attr-defined,no-any-return]


async def test_a_request_reaches_its_server_in_origin_form(world: World) -> None:
    base, port = await site(world)
    answer = await world.get(f"{base}/a%7Eb?q=1")
    assert status(answer) == 200
    assert answer.endswith(b"hi")
    expected = f"get /a~b?q=1 http/1.1\r\nhost: {SITE}:{port}\r\n".encode()
    assert seen(world)[0].lower().startswith(expected)
    assert (world.asked[0].scheme, world.asked[0].method, world.asked[0].path) == ("http", "GET", "/a~b")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/@types%2fnode", "/@types/node"),
        ("/npm/x/@types%2Fnode?write=true", "/npm/x/@types/node"),
        ("/@types%2f..", None),
        ("/@..%2fsecret", None),
        ("/@a%2fb%2fc", None),
        ("/@a%2fb/c", None),
        ("/a%2fb", None),
        ("/?/@a%2fb", "/"),
    ],
)
async def test_a_scope_in_npms_spelling_is_judged_and_sent_with_a_slash_and_nothing_else_is(
    world: World, asked: str, meant: str | None
) -> None:
    base, _ = await site(world)
    answer = await world.get(base + asked)
    assert status(answer) == (403 if meant is None else 200)
    assert [each.path for each in world.asked] == ([] if meant is None else [meant])
    assert [data.split()[1].split(b"?")[0].decode() for data in seen(world)] == (
        [] if meant is None else [meant]
    )


async def test_a_scope_is_no_way_round_a_rule_for_paths_or_into_another_host(world: World) -> None:
    base, port = await site(world)
    assert status(await world.get(f"{base}/secret/@a%2fb")) == 403
    assert status(await world.get(f"http://@{SITE}:{port}%2fb")) == 403
    assert seen(world) == []


async def test_method_and_path_are_judged(world: World) -> None:
    """E2, E7."""
    base, _ = await site(world)
    for path in ("/secret", "/x/../secret", "/%73ecret", "//../secret", "/x/%2e%2e/secret"):
        assert status(await world.get(base + path)) in (400, 403), path
    assert seen(world) == []


async def test_every_request_of_a_connection_is_judged(world: World) -> None:
    """Kept alive or pipelined."""
    base, port = await site(world)
    head = f" HTTP/1.1\r\nHost: {SITE}:{port}\r\n\r\n"
    answer = await world.say(
        f"GET {base}/1{head}GET {base}/2{head}GET {base}/secret{head}GET {base}/4{head}".encode()
    )
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.count(b"HTTP/1.1 403") == 1
    assert [data.split()[1] for data in seen(world)] == [b"/1", b"/2"]
    assert [record.verdict for record in world.records] == ["allowed", "allowed", "denied"]


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: 4", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Content-Length: 4", "Content-Length: 5"], b"abcde"),
        (["Content-Length: 4, 5"], b"abcde"),
        (["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n"),
        (["Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding : chunked"], b"0\r\n\r\n"),
        (["Content-Length: +4"], b"abcd"),
        (["Content-Length: -1"], b""),
        (["X: a\0b"], b""),
        (["Host: evil.example"], b""),
        ([" folded: x", "Transfer-Encoding:\x0bchunked"], b""),
    ],
)
async def test_what_two_servers_cut_differently_is_refused(
    world: World, lines: list[str], body: bytes
) -> None:
    """Smuggling."""
    base, _ = await site(world)
    answer = await world.get(base + "/", *lines, method="POST", body=body)
    assert 400 <= status(answer) < 502
    assert seen(world) == []


async def test_a_chunked_body_is_written_anew(world: World) -> None:
    base, _ = await site(world)
    body = b"5;ext=1\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"
    answer = await world.get(
        base + "/", "Transfer-Encoding: chunked", "TE: trailers", method="PUT", body=body
    )
    assert status(answer) == 200
    [request] = seen(world)
    assert request.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert b"ext" not in request
    assert b"railer" not in request


async def test_headers_of_one_hop_stay_there(world: World) -> None:
    base, _ = await site(world)
    lines = ["Proxy-Authorization: Basic x", "Keep-Alive: 5", "X-Hop: 1", "Proxy-Connection: x", "X-End: 2"]
    await world.get(base, *lines, "Connection: X-Hop, Authorization", "Authorization: stays")
    [request] = seen(world)
    assert b"x-end: 2" in request.lower()
    assert b"authorization: stays" in request.lower()
    for dropped in (b"proxy", b"keep-alive", b"x-hop"):
        assert dropped not in request.lower()


@pytest.mark.parametrize("host", ["other.example.com", SITE, f"{SITE}:1", f"user@{SITE}"])
async def test_the_host_header_must_name_the_same_host(world: World, host: str) -> None:
    """E6."""
    base, _ = await site(world)
    assert 400 <= status(await world.say(f"GET {base}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())) <= 403
    assert seen(world) == []


@pytest.mark.parametrize(
    "line",
    ["GET / HTTP/1.1", "GET https://site.example.com/ HTTP/1.1", "GET //site.example.com/ HTTP/1.1", "OPTIONS * HTTP/1.1",
     "GET ftp://site.example.com/ HTTP/1.1", "GET http://site.example.com@evil.com/ HTTP/1.1", "GET http:/x HTTP/1.1",
     "GET http://site.example.com HTTP/2.0", "GET  http://site.example.com/ HTTP/1.1", "junk", "\x16\x03\x01\x02\x00"],
)  # fmt: skip
async def test_a_request_that_names_no_whole_url_is_refused(world: World, line: str) -> None:
    """E7."""
    world.allow(SITE, 80)
    answer = await world.say(f"{line}\r\nHost: {SITE}\r\n\r\n".encode())
    assert answer == b"" or 400 <= status(answer) <= 505
    assert world.dialled == []


async def test_plain_http_is_not_upgraded(world: World) -> None:
    """E14."""
    base, _ = await site(world)
    answer = await world.get(base, "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert status(answer) == 403
    assert b"tunnel" in answer
    assert seen(world) == []


async def test_where_the_server_opens_tls_nothing_is_upgraded_either_and_the_hint_says_what_helps(
    world: World,
) -> None:
    """E14."""
    origin = await world.origin(tls=SITE)
    world.allow(SITE, origin.port, terminate=True)
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.authority))
        await inner.send(
            f"GET / HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\nUpgrade: websocket\r\n\r\n".encode()
        )
        answer = await rest(inner)
    assert status(answer) == 403
    assert b"without 'terminate'" in answer
    assert world.dialled == []


async def test_a_websocket_goes_through_a_tunnel(world: World) -> None:
    """E14."""
    origin = await world.origin(
        tls=SITE, answer=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    )
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.public))
        await inner.send(b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
        assert (await rest(inner)).startswith(b"HTTP/1.1 101")


async def test_expect_continue_is_answered_only_when_allowed(world: World) -> None:
    base, port = await site(world)
    head = f"Host: {SITE}:{port}\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    async with world.client() as stream:
        await stream.send(f"POST {base}/ HTTP/1.1\r\n{head}".encode())
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await stream.send(b"abc")
        assert (await rest(stream)).endswith(b"hi")
    assert (await world.say(f"POST {base}/secret HTTP/1.1\r\n{head}".encode())).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000 + b"\r\n", b"HTTP/1.1 101 Switching\r\n\r\nraw",
    ],
)  # fmt: skip
async def test_a_broken_answer_is_told_as_one(world: World, answer: bytes) -> None:
    origin = await world.origin(answer=answer)
    world.allow(SITE, origin.port)
    told = await world.get(f"http://{SITE}:{origin.port}/")
    assert status(told) == 502
    assert json.loads(told.partition(b"\r\n\r\n")[2])["error"] == "egress_failed"


async def test_an_answer_that_is_cut_is_not_passed_off_as_whole(world: World) -> None:
    origin = await world.origin(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhi")
    world.allow(SITE, origin.port)
    told = await world.get(f"http://{SITE}:{origin.port}/")
    assert b"content-length: 50" in told.lower()
    assert told.endswith(b"hi")


# --- secrets and termination


async def test_a_secret_is_injected_and_never_comes_back(world: World) -> None:
    origin = await world.origin()
    world.secrets["token"] = "Bearer s3cr3t-value"
    world.allow(SITE, origin.port, inject={"Authorization": "token"})

    async def mirror(stream: anyio.abc.ByteStream) -> None:
        request = await until(stream, b"\r\n\r\n")
        origin.seen.append(request)
        await stream.send(b"HTTP/1.1 200 s3cr3t-value\r\nX-Echo: s3cr3t-value\r\n\r\nyou sent s3cr")
        await stream.send(b"3t-value, " + request)

    origin.handler = mirror
    answer = await world.get(
        f"http://{SITE}:{origin.port}/", "Authorization: mine", "Accept-Encoding: gzip", "Range: bytes=3-5"
    )
    assert b"authorization: Bearer s3cr3t-value" in origin.seen[0].replace(b"Authorization", b"authorization")
    assert b"mine" not in origin.seen[0]
    assert b"gzip" not in origin.seen[0]
    assert b"bytes=3-5" not in origin.seen[0]
    assert b"x-echo: ************" in answer.lower()
    assert b"s3cr3t" not in answer
    assert "s3cr3t" not in repr(world.records)


async def test_a_header_that_servers_take_for_the_injected_one_gives_way_too(world: World) -> None:
    origin = await world.origin()
    world.secrets["token"] = "s3cr3t-value"
    world.allow(SITE, origin.port, inject={"X-User": "token"})
    await world.get(f"http://{SITE}:{origin.port}/", "X_User: root", "X_Other: 1")
    assert b"root" not in origin.seen[0]
    assert b"x_other: 1" in origin.seen[0].lower()


async def test_a_secret_does_not_come_back_in_another_spelling(world: World) -> None:
    origin = await world.origin()
    world.secrets["token"] = "Bearer s3cr3t/value+long"
    world.allow(SITE, origin.port, inject={"Authorization": "token"})
    raw = b"s3cr3t/value+long"
    spellings = [
        base64.b64encode(raw).rstrip(b"="),
        raw.hex().encode(),
        b"s3cr3t%2Fvalue%2Blong",
        b"s3cr3t%2fvalue+long",
    ]
    body = b" ".join(spellings)
    head = b"HTTP/1.1 200 OK\r\nX-Echo: " + spellings[0] + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    origin.answer = head + body
    answer = await world.get(f"http://{SITE}:{origin.port}/")
    assert answer.endswith(b" ".join(b"*" * len(each) for each in spellings))
    assert spellings[0] not in answer


async def test_a_compressed_answer_to_an_injected_request_does_not_pass(world: World) -> None:
    origin = await world.origin(
        answer=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi"
    )
    world.secrets["token"] = "s3cr3t-value"
    world.allow(SITE, origin.port, inject={"Authorization": "token"})
    assert status(await world.get(f"http://{SITE}:{origin.port}/")) == 502


async def test_an_answer_that_ends_with_its_connection_keeps_no_beginning_of_a_secret(world: World) -> None:
    for head, shown in ((b"", b"you sent **********"), (b"Content-Length: 19\r\n", b"you sent s3cr3t%2fv")):
        origin = await world.origin(answer=b"HTTP/1.1 200 OK\r\n" + head + b"\r\nyou sent s3cr3t%2fv")
        world.secrets["token"] = "Bearer s3cr3t/value+long"
        world.allow(SITE, origin.port, inject={"Authorization": "token"})
        assert shown in await world.get(f"http://{SITE}:{origin.port}/")


async def test_a_missing_secret_sends_nothing(world: World) -> None:
    base, _ = await site(world, inject={"Authorization": "nowhere"})
    world.secrets.clear()
    answer = await world.get(base)
    assert status(answer) == 502 or answer == b""
    assert seen(world) == []


async def test_a_terminated_host_is_judged_by_path_and_gets_its_secret(world: World) -> None:
    origin = await world.origin(tls=SITE)
    world.secrets["token"] = "s3cr3t-value"
    world.allow(SITE, origin.port, terminate=True, inject={"X-Token": "token"})
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.authority))
        await inner.send(f"GET /open HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        assert (await until(inner, b"hi")).startswith(b"HTTP/1.1 200")
        await inner.send(f"GET /secret HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        assert status(await rest(inner)) == 403
    [request] = [data for data in origin.seen if data]
    assert b"s3cr3t-value" in request
    schemes = [(record.scheme, record.method, record.verdict) for record in world.records]
    assert schemes[:2] == [("https", "GET", "allowed"), ("https", "GET", "denied")]


@pytest.mark.parametrize(
    "host", ["evil.example.org", "other.example.com:443", SITE, f"user@{SITE}", f"{SITE}:1"]
)
async def test_a_terminated_hosts_requests_name_it(world: World, host: str) -> None:
    """E6: a Host header inside TLS that is not the server name, which is where the bytes would go."""
    origin = await world.origin(tls=SITE)
    world.allow(SITE, origin.port, terminate=True)
    world.allow("evil.example.org", 443)
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.authority))
        await inner.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert status(await rest(inner)) in (400, 403)
    assert origin.connections == 0


async def test_a_terminated_hosts_certificate_is_verified_for_real(world: World) -> None:
    origin = await world.origin(tls="other.example.com")
    world.allow(SITE, origin.port, terminate=True)
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.authority))
        await inner.send(f"GET / HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        answer = await rest(inner)
    assert status(answer) == 502
    assert b"TLS with" in answer
    assert origin.seen == []


async def test_the_servers_own_authority_is_nobody_to_the_server(world: World) -> None:
    world.public = world.authority
    origin = await world.origin(tls=SITE)
    world.allow(SITE, origin.port, terminate=True)
    async with world.tunnel(SITE, origin.port) as stream:
        inner = await tls(stream, SITE, world.trusting(world.authority))
        await inner.send(f"GET / HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        assert status(await rest(inner)) == 502


# --- limits


async def test_what_is_sent_is_capped_over_all_connections(world: World) -> None:
    """E16: not a byte over the cap reaches the server."""
    base, _ = await site(world)
    world.limits = EgressLimits(bytes_out=3000)
    outlet = world.gateway.outlet(world.outlet._access)  # type: ignore[attr-defined]
    head = f"POST {base}/ HTTP/1.1\r\nHost: {base[7:]}\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n"
    assert status(await world.say(head.encode() + b"x" * 2000, outlet)) == 200
    assert await world.say(head.encode() + b"y" * 2000, outlet) in (b"",)
    told = await world.say(head.encode(), outlet)
    assert status(told) == 403
    assert b"used up its bytes_out" in told
    assert sum(data.count(b"y") for data in seen(world)) < 1000
    assert status(await world.say(head.encode() + b"z" * 2000)) == 200  # another sandbox has its own


async def test_what_comes_is_capped(world: World) -> None:
    origin = await world.origin(answer=b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000)
    world.allow(SITE, origin.port)
    world.limits = EgressLimits(bytes_in=100_000)
    assert len(await world.get(f"http://{SITE}:{origin.port}/")) <= 100_000
    assert world.records[0].reason == "limit: bytes_in"
