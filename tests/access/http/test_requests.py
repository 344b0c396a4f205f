"""What goes out, and what is made of an ordinary answer."""

from __future__ import annotations

import base64
import json
import zlib
from functools import partial
from ipaddress import ip_address
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from sandbox_server.errors import Busy, InvalidRequest, PolicyDenied
from sandbox_server.guards.web import WebLimits
from tests.access.http.lab import HOST, Seen, allow, answer, client, fetch, routes, serve


async def test_a_request_arrives_as_it_was_judged_with_the_hosts_name_on_a_connection_of_its_own() -> None:
    async with serve(answer()) as server:
        result = await fetch(f"http://{HOST}:{server.port}/a/../b?q=1#f", headers={"X-Mine": "yes"})
        await fetch(f"http://{HOST}:{server.port}/")
    first = server.seen[0]
    assert first.line == "GET /b?q=1 HTTP/1.1"
    assert first.header("host") == f"{HOST}:{server.port}"
    assert first.header("x-mine") == "yes"
    assert first.header("connection") == "close"
    assert first.header("accept-encoding") == "gzip, deflate"
    assert first.header("content-length") is None
    assert (result.status, result.body.text, result.rule, result.redirects) == (200, "ok", "test", ())
    assert result.received == 2
    assert 0 < result.timings.connect <= result.timings.total
    assert server.connections == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_body_is_sent_with_its_length(method: str) -> None:
    async with serve(answer()) as server:
        await fetch(
            f"http://{HOST}:{server.port}/", method=method, body=b'{"a":1}', content_type="application/json"
        )
    assert server.seen[0].method == method
    assert server.seen[0].body == b'{"a":1}'
    assert server.seen[0].header("content-type") == "application/json"
    assert server.seen[0].header("transfer-encoding") is None


async def test_head_has_headers_and_no_body() -> None:
    async with serve(answer(b"", Content_Length="1000", ETag='"x"')) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", method="HEAD")
    assert ("etag", '"x"') in result.headers
    assert (result.body.text, result.body.base64, result.body.cut) == (None, None, "")


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nHost: evil.com"},
        {"X": "a\nb"},
        {"X": "a\0b"},
        {"X": "ä"},
        {"X\r\nY": "a"},
        {"X Y": "a"},
        {"X:": "a"},
        {"": "a"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"x-method-override": "DELETE"},
        {"X-Original-URL": "/admin"},
        {"X_HTTP_Method_Override": "DELETE"},
        {"x-original_url": "/admin"},
        {"X-Rewrite-URL": "/admin"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Host": "evil.com"},
        {"Forwarded": "for=127.0.0.1"},
        {"Accept": "a", "accept": "b"},
        {"X": "a" * 20_000},
        {f"X-{n}": "a" for n in range(60)},
    ],
    ids=lambda headers: next(iter(headers))[:20],
)
async def test_a_header_that_would_make_another_request_of_it_is_refused(headers: dict[str, str]) -> None:
    async with serve(answer()) as server:
        with pytest.raises(InvalidRequest, match="headers: "):
            await fetch(f"http://{HOST}:{server.port}/", headers=headers)
    assert server.connections == 0


async def test_headers_of_the_connection_are_the_clients_and_the_result_says_so() -> None:
    theirs = {
        "Host": "evil.com",
        "Connection": "X-Mine",
        "Transfer-Encoding": "chunked",
        "Content-Length": "99",
        "TE": "trailers",
        "Upgrade": "h2c",
        "HTTP2-Settings": "x",
        "Expect": "100-continue",
        "Proxy-Authorization": "Basic x",
        "Proxy-Connection": "keep-alive",
        "Accept-Encoding": "br",
        "Content_Length": "0",
        "transfer_encoding": "chunked",
    }
    async with serve(answer()) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", method="POST", body=b"x", headers=theirs)
    seen = server.seen[0]
    assert set(result.dropped) == {name.lower() for name in theirs}
    assert seen.header("host") == f"{HOST}:{server.port}"
    assert (seen.header("connection"), seen.header("content-length")) == ("close", "1")
    for name in ("transfer-encoding", "te", "upgrade", "http2-settings", "expect", "proxy-authorization"):
        assert seen.header(name) is None


async def test_only_headers_that_say_something_about_the_answer_come_back() -> None:
    script = answer(
        Set_Cookie="id=1",
        Server="x",
        Alt_Svc="h3",
        Refresh="0;url=http://evil/",
        X_RateLimit_Limit="5",
        Strict_Transport_Security="max-age=1",
        Link="<x>; rel=next",
    )
    async with serve(script) as server:
        by = client()
        result = await fetch(f"http://{HOST}:{server.port}/", by=by)
        await fetch(f"http://{HOST}:{server.port}/", by=by, principal="bob")
    assert {name for name, _ in result.headers} == {"content-type", "x-ratelimit-limit", "link"}
    assert server.seen[1].header("cookie") is None
    assert server.seen[1].line.startswith("GET / ")


BODIES: list[tuple[str, bytes, str, Any]] = [
    ("application/json", b'{"a": [1, null]}', "json", {"a": [1, None]}),
    ("application/problem+json; charset=utf-8", b"null", "json", None),
    ("application/json", b"\xef\xbb\xbf[]", "json", []),
    ("application/json", b"[NaN]", "text", "[NaN]"),
    ("application/json", b"[1e999]", "text", "[1e999]"),
    ("application/json", b"{", "text", "{"),
    ("application/json", b'{"a": {"b": 1, "b": 2}}', "text", '{"a": {"b": 1, "b": 2}}'),
    ("application/json", b"[" * 70 + b"]" * 70, "text", "[" * 70 + "]" * 70),
    ("application/json", b"[" * 9999, "text", "[" * 9999),
    ("text/plain", "ü".encode(), "text", "ü"),
    ("text/plain; charset=ISO-8859-1", b"\xfc", "text", "ü"),
    ("text/plain; charset=utf-16", "ü".encode("utf-16"), "text", "ü"),
    ("text/plain; charset=rot13", b"abc", "text", "abc"),
    ("text/plain; charset=iso-8859-12", b"abc", "text", "abc"),
    ("text/plain; charset=windows-874", "ก".encode("cp874"), "text", "ก"),
    ("text/plain; charset=unicode_escape", b"\\x41", "text", "\\x41"),
    ("text/plain; charset=\r", b"abc", "text", "abc"),
    ("text/plain", b"\xff", "text", "\ufffd"),
    ("application/xml", b"<a/>", "text", "<a/>"),
    ("", b"abc", "text", "abc"),
    ("", b"a\0c", "base64", base64.b64encode(b"a\0c").decode()),
    ("application/octet-stream", b"\xff\xfe", "base64", base64.b64encode(b"\xff\xfe").decode()),
    ("image/png", b"PNG", "base64", base64.b64encode(b"PNG").decode()),
]


@pytest.mark.parametrize(("kind", "body", "form", "value"), BODIES, ids=lambda value: str(value)[:24])
async def test_a_body_is_json_text_or_base64(kind: str, body: bytes, form: str, value: Any) -> None:
    async with serve(answer(body, Content_Type=kind.replace("\r", ""))) as server:
        shown = (await fetch(f"http://{HOST}:{server.port}/")).body
    assert {"json": shown.json and shown.json[0], "text": shown.text, "base64": shown.base64}[form] == value
    assert [shown.json, shown.text, shown.base64].count(None) == 2
    assert shown.cut == ""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
async def test_a_compressed_body_is_read(encoding: str) -> None:
    bits = {"gzip": 31, "deflate": 15, "raw": -15}[encoding]
    packer = zlib.compressobj(wbits=bits)
    body = packer.compress(b"hello " * 1000) + packer.flush()
    name = "deflate" if encoding == "raw" else encoding
    async with serve(answer(body, Content_Encoding=name)) as server:
        result = await fetch(f"http://{HOST}:{server.port}/")
    assert result.body.text == "hello " * 1000
    assert result.received == len(body)


async def test_more_than_is_shown_is_cut_at_a_whole_character_and_json_is_then_text() -> None:
    async with serve(
        answer(json.dumps(["ü" * 100], ensure_ascii=False), Content_Type="application/json")
    ) as server:
        limits = WebLimits(shown=11)
        result = await fetch(f"http://{HOST}:{server.port}/", allow(limits=limits))
    assert result.body.text == '["üüüü'
    assert result.body.cut == "only 11 bytes are shown"


async def test_html_becomes_markdown_when_it_is_asked_for() -> None:
    page = (
        "<html><head><title>T &amp; U</title><style>x{}</style></head><body>"
        "<script>evil()</script><h2>Head</h2>"
        "<p>Some <b>bold</b> <a href='/x'>link</a></p><ul><li>one<li>two</ul><!-- hidden --></body></html>"
    )
    async with serve(answer(page, Content_Type="text/html; charset=utf-8")) as server:
        url = f"http://{HOST}:{server.port}/"
        result, plain = await fetch(url, markdown=True), await fetch(url)
    text = result.body.text or ""
    assert text.startswith("# T & U\n\n## Head\n\nSome **bold** [link](/x)\n\n- one")
    assert "evil" not in text
    assert "hidden" not in text
    assert plain.body.text == page


async def test_markdown_of_something_else_is_the_thing_itself() -> None:
    async with serve(answer("{}", Content_Type="application/json")) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", markdown=True)
    assert result.body.json == ({},)


async def test_a_body_beyond_what_the_rule_takes_is_not_sent() -> None:
    async with serve(answer()) as server:
        with pytest.raises(PolicyDenied, match="takes 3"):
            await fetch(
                f"http://{HOST}:{server.port}/",
                allow(limits=WebLimits(request_body=3)),
                method="POST",
                body=b"1234",
            )
    assert server.connections == 0


async def test_the_judge_is_given_method_url_and_size() -> None:
    asked: list[tuple[str, str, int]] = []
    inner = allow()

    def judge(method: str, url: Any, size: int) -> Any:
        asked.append((method, str(url), size))
        return inner(method, url, size)

    async with serve(answer()) as server:
        await fetch(f"http://{HOST.upper()}:{server.port}/x/../y", judge, method="PUT", body=b"1234")
    assert asked == [("PUT", f"http://{HOST}:{server.port}/y", 4)]


async def test_a_rules_rate_holds_for_each_principal_by_itself() -> None:
    by, judge = client(), allow(rate=(2, 3600.0))
    async with serve(answer()) as server:
        url = f"http://{HOST}:{server.port}/"
        await fetch(url, judge, by=by)
        await fetch(url, judge, by=by)
        with pytest.raises(Busy, match="2 requests") as busy:
            await fetch(url, judge, by=by)
        await fetch(url, judge, by=by, principal="bob")
    assert 0 < busy.value.retry_after <= 1800
    assert server.connections == 3


async def test_a_principal_with_many_requests_leaves_room_for_others() -> None:
    by, come, go = client(each=1, at_once=2), anyio.Event(), anyio.Event()

    async def slow(seen: Seen, stream: ByteStream) -> None:
        come.set()
        await go.wait()
        await answer()(seen, stream)

    async with serve(routes(slow=slow, quick=answer())) as server, anyio.create_task_group() as tasks:
        url = f"http://{HOST}:{server.port}"
        tasks.start_soon(partial(fetch, f"{url}/slow", by=by))
        await come.wait()
        with pytest.raises(Busy):
            await fetch(f"{url}/quick", by=by)
        assert (await fetch(f"{url}/quick", by=by, principal="bob")).status == 200
        go.set()
    assert server.connections == 2


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    class Two:
        async def resolve(self, host: str, port: int, principal: str) -> Any:
            return [ip_address("::1"), ip_address("127.0.0.1")]

    async with serve(answer(), host="127.0.0.1") as server:
        result = await fetch(f"http://{HOST}:{server.port}/", by=client(Two()))
    assert result.status == 200
