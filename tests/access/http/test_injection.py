"""Secrets go into the request that a rule grants them for, and into nothing that is shown or logged."""

from __future__ import annotations

import base64
import logging
from dataclasses import asdict
from typing import Any

import pytest
import structlog
from anyio.abc import ByteStream

from sandbox_server.errors import ConfigError, PolicyDenied, UpstreamFailed
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant, WebLimits
from tests.access.http.lab import HOST, Seen, allow, answer, client, fetch, serve

TOKEN = "0123456789abcdefTOKEN"
INJECT = allow(inject={"Authorization": "secret://gh_token"})
SECRETS = {"gh_token": f"Bearer {TOKEN}"}


async def echo(seen: Seen, stream: ByteStream) -> None:
    token = (seen.header("authorization") or "").removeprefix("Bearer ")
    packed = base64.b64encode(f"Bearer {token}".encode()).decode()
    body = f'{{"Authorization": "Bearer {token}", "b64": "{packed}", "hex": "{token.encode().hex()}"}}'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-Id: {token}\r\nETag: {packed}\r\n"
    await stream.send(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


async def test_a_secret_is_sent_and_its_echo_is_redacted() -> None:
    async with serve(echo) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", INJECT, by=client(secrets=SECRETS))
    assert server.seen[0].header("authorization") == f"Bearer {TOKEN}"
    shown = str(asdict(result))
    for form in (TOKEN, base64.b64encode(f"Bearer {TOKEN}".encode()).decode()[:-4], TOKEN.encode().hex()):
        assert form not in shown
    assert ("x-request-id", "[secret]") in result.headers
    assert result.body.json is not None
    assert result.body.json[0]["Authorization"] == "[secret]"  # type: ignore[index]


async def test_the_callers_own_header_gives_way_to_the_injected_one() -> None:
    async with serve(answer()) as server:
        await fetch(
            f"http://{HOST}:{server.port}/",
            INJECT,
            by=client(secrets=SECRETS),
            headers={"AUTHORIZATION": "Bearer mine"},
        )
    assert server.seen[0].header("authorization") == f"Bearer {TOKEN}"


async def test_the_callers_header_gives_way_also_where_servers_take_both_for_one() -> None:
    """CGI and its kin make HTTP_X_USER of either, and of two headers one list or the last of them."""
    async with serve(answer()) as server:
        await fetch(
            f"http://{HOST}:{server.port}/",
            allow(inject={"X-User": "gh_token"}),
            by=client(secrets=SECRETS),
            headers={"X_User": "root", "x_other": "1"},
        )
    seen = server.seen[0]
    assert (seen.header("x-user"), seen.header("x_user")) == (f"Bearer {TOKEN}", None)
    assert seen.header("x_other") == "1"


@pytest.mark.parametrize(
    "location", [f"/next?t={TOKEN}", f"http://other.example.test/{TOKEN}", f"http://{TOKEN}.example.test/"]
)
async def test_a_redirect_that_carries_the_secret_is_not_followed(location: str) -> None:
    """It would tell another origin, and everybody who logs URLs: the policy's own log is one of them."""
    judged: list[str] = []

    def judge(method: str, url: Url, size: int) -> WebGrant:
        judged.append(str(url))
        return INJECT(method, url, size)

    async with serve(answer(b"", "302 X", Location=location)) as server:
        with pytest.raises(PolicyDenied) as denied:
            await fetch(f"http://{HOST}:{server.port}/", judge, by=client(secrets=SECRETS))
    assert denied.value.rule == "floor.secret_in_redirect"
    assert judged == [f"http://{HOST}:{server.port}/"]
    assert TOKEN.lower() not in f"{denied.value}{denied.value.hint}".lower()


async def test_no_error_and_no_log_line_has_it() -> None:
    def script(location: str) -> Any:
        return answer(b"", "302 X", Location=location)

    async with serve(script(f"http://{TOKEN.lower()}.evil.test/{TOKEN}")) as server:
        with structlog.testing.capture_logs() as logs, pytest.raises(PolicyDenied) as denied:
            await fetch(f"http://{HOST}:{server.port}/", INJECT, by=client(secrets=SECRETS))
    assert TOKEN not in f"{denied.value}{denied.value.args}{denied.value.hint}"
    assert TOKEN not in str(logs)
    assert logs[-1]["event"] == "web_refused"
    assert logs[-1]["cause"] == "floor.secret_in_redirect"


async def test_the_transports_own_debug_lines_are_not_written(caplog: pytest.LogCaptureFixture) -> None:
    from sandbox_server.observe.logs import setup_logs

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        setup_logs("debug")
        assert not logging.getLogger("httpcore2.http11").isEnabledFor(logging.DEBUG)
    finally:
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()


async def test_a_secret_that_is_not_there_stops_the_request() -> None:
    async with serve(answer()) as server:
        with pytest.raises(ConfigError, match="gh_token is not set"):
            await fetch(f"http://{HOST}:{server.port}/", INJECT)
    assert server.connections == 0


async def test_a_body_cut_within_an_echo_shows_no_beginning_of_it() -> None:
    async with serve(answer(f"token: {TOKEN}")) as server:
        judge = allow(inject={"X-Key": "gh_token"}, limits=WebLimits(body=20))
        result = await fetch(f"http://{HOST}:{server.port}/", judge, by=client(secrets={"gh_token": TOKEN}))
    assert result.body.text == "token: [secret]"


@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "utf-16be"])
@pytest.mark.parametrize("over", [10, 11])
async def test_nor_does_one_whose_letters_are_two_bytes_each(charset: str, over: int) -> None:
    body = f"token: {TOKEN}".encode(charset)
    begun = len("token: ".encode(charset)) + over
    async with serve(answer(body, Content_Type=f"text/plain; charset={charset}")) as server:
        judge = allow(inject={"X-Key": "gh_token"}, limits=WebLimits(body=begun))
        result = await fetch(f"http://{HOST}:{server.port}/", judge, by=client(secrets={"gh_token": TOKEN}))
    assert result.body.text == "token: [secret]"


async def test_a_line_is_logged_for_each_request_without_its_query() -> None:
    async with serve(answer()) as server:
        with structlog.testing.capture_logs() as logs:
            await fetch(f"http://{HOST}:{server.port}/path?key=private", principal="carol")
    (line,) = [each for each in logs if each["event"] == "web_request"]
    assert line["principal"] == "carol"
    assert (line["url"], line["rule"], line["status"]) == (f"http://{HOST}:{server.port}/path", "test", 200)
    assert line["received"] == 2
    assert "private" not in str(logs)


async def test_an_answer_that_fails_is_logged_with_its_cause() -> None:
    async with serve(answer(status="999 X")) as server:
        with structlog.testing.capture_logs() as logs, pytest.raises(UpstreamFailed):
            await fetch(f"http://{HOST}:{server.port}/")
    assert logs[-1]["cause"] == "web.protocol"
    assert logs[-1]["origin"] == f"http://{HOST}:{server.port}"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", rb'{"seen": "Bearer 0123/4567+89ab=cdef"}'),
        ("application/json", rb'{"seen": "0123\/4567+89ab=cdef"}'),
        ("application/json", rb'{"seen": "0123/4567\u002B89ab=cdef"}'),
        ("application/json", rb'{"seen": "0123/\u0034567+89ab=cdef"}'),
        ("application/json", rb'{"0123\/4567+89ab=cdef": 1}'),
        ("application/json", rb'[{"a": [["0123\/4567+89ab=cdef"]]}]'),
        ("text/plain", rb'{"seen": "0123\/4567\u002b89ab=cdef"}'),
        ("text/plain", b"?token=0123%2f4567%2b89ab%3dcdef"),
        ("text/plain", b"?token=0123/4567%2B89ab=cdef"),
        ("text/html", b"<p>0123&#x2F;4567&#43;89ab&#61;cdef</p>"),
    ],
)
async def test_an_echo_in_another_spelling_is_redacted(kind: str, body: bytes) -> None:
    secret = "Bearer 0123/4567+89ab=cdef"
    async with serve(answer(body.decode(), Content_Type=kind)) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", INJECT, by=client(secrets={"gh_token": secret}))
    shown = str(asdict(result))
    assert "[secret]" in shown
    assert "cdef" not in shown


async def test_a_secret_is_not_asked_for_in_slices() -> None:
    async def slices(seen: Seen, stream: ByteStream) -> None:
        first, _, last = (seen.header("range") or "bytes=0-999").removeprefix("bytes=").partition("-")
        part = (seen.header("authorization") or "")[int(first) : int(last) + 1].encode()
        await stream.send(
            b"HTTP/1.1 206 X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(part), part)
        )

    async with serve(slices) as server:
        url, range_ = f"http://{HOST}:{server.port}/", {"Range": "bytes=7-12", "If-Range": '"a"'}
        result = await fetch(url, INJECT, by=client(secrets=SECRETS), headers=range_)
        plain = await fetch(url, headers=range_ | {"Authorization": "my own token"})
    assert result.body.text == "[secret]"
    assert set(result.dropped) == {"range", "if-range"}
    assert (plain.body.text, plain.dropped) == ("token", ())


async def test_a_refused_redirect_to_a_host_called_like_the_secret_is_logged_without_it() -> None:
    secret = "0123456789abcdef-lower"
    async with serve(answer(b"", "302 X", Location=f"http://{secret}.evil.test/")) as server:
        with structlog.testing.capture_logs() as logs, pytest.raises(PolicyDenied) as denied:
            await fetch(f"http://{HOST}:{server.port}/", INJECT, by=client(secrets={"gh_token": secret}))
    assert secret not in f"{denied.value}{denied.value.hint}{logs}"
