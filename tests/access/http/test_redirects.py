"""Redirects: each is a new request, judged like the first, and takes nothing along that is not its own."""

from __future__ import annotations

import pytest

from sandbox_server.errors import PolicyDenied, UpstreamFailed
from sandbox_server.guards.web import WebLimits
from tests.access.http.lab import HOST, Names, allow, answer, client, fetch, raw, routes, serve

OTHER = "other.example.test"
BOTH = allow(HOST, OTHER)


@pytest.mark.parametrize(
    ("location", "rule"),
    [
        ("http://127.0.0.1/", "default"),
        ("http://169.254.169.254/latest/meta-data/", "default"),
        ("http://[::1]/", "default"),
        ("http://evil.test/", "default"),
        ("//evil.test/", "default"),
        ("//169.254.169.254/", "default"),
        (f"http://{HOST}.evil.test/", "default"),
        (f"//user@{HOST}/", "floor.url.userinfo"),
        ("http://2130706433/", "floor.url.host_number"),
        ("http://127.1/", "floor.url.host_number"),
        ("http://localhost/", "floor.url.host_local"),
        ("http://metadata.google.internal/", "floor.url.host_metadata"),
        ("file:///etc/passwd", "floor.url.scheme"),
        ("gopher://evil.test/", "floor.url.scheme"),
        ("javascript:alert(1)", "floor.url.scheme"),
        ("http:evil.test", "floor.url.authority"),
        ("/\\evil.test", "floor.url.characters"),
        ("/a\tb", "floor.url.characters"),
        ("/..%2fadmin", "floor.url.path"),
        ("http://[fe80::1%25eth0]/", "floor.url.host_zone"),
    ],
)
async def test_a_redirect_out_of_the_policy_is_not_followed(location: str, rule: str) -> None:
    async with serve(answer(b"", "302 Found", Location=location)) as server:
        with pytest.raises(PolicyDenied) as denied:
            await fetch(f"http://{HOST}:{server.port}/")
    assert denied.value.rule == rule
    assert "redirect" in denied.value.message
    assert server.connections == 1


async def test_a_redirect_to_an_allowed_name_with_a_private_address_is_denied() -> None:
    names = Names(**{HOST: ["127.0.0.1"], OTHER: ["10.0.0.1"]})
    async with serve(answer(b"", "302 Found", Location=f"http://{OTHER}/")) as server:
        with pytest.raises(PolicyDenied) as denied:
            await fetch(f"http://{HOST}:{server.port}/", BOTH, by=client(names))
    assert denied.value.rule == "floor.address"


@pytest.mark.parametrize(("method", "safe"), [("POST", False), ("GET", True)])
async def test_what_fails_behind_a_redirect_is_not_safe_to_send_again(method: str, safe: bool) -> None:
    """The first request has been answered: it may have done what it was asked for."""
    script = answer(b"", "303 X", Location="http://gone.example.test/")
    async with serve(script) as server:
        with pytest.raises(UpstreamFailed) as failed:
            await fetch(
                f"http://{HOST}:{server.port}/",
                allow("*.example.test"),
                by=client(Names(api__example__test=["127.0.0.1"])),
                method=method,
            )
    assert (failed.value.retry_safe, failed.value.reason) == (safe, "web.dns")
    assert (
        "The POST was sent, and redirected to http://gone.example.test." in failed.value.message
    ) is not safe


async def test_nor_is_what_is_over_a_rate_there() -> None:
    async with serve(answer(b"", "303 X", Location="/")) as server:
        with pytest.raises(UpstreamFailed, match="The PUT was sent") as failed:
            await fetch(f"http://{HOST}:{server.port}/", allow(rate=(1, 60.0)), method="PUT")
    assert (failed.value.retry_safe, failed.value.reason) == (False, "busy")


async def test_a_redirect_that_is_allowed_is_followed_and_told() -> None:
    script = routes(a=answer(b"", "301 Moved", Location="b?x=1"), b=answer("there"))
    async with serve(script) as server:
        result = await fetch(f"http://{HOST}:{server.port}/a")
    there = f"http://{HOST}:{server.port}/b?x=1"
    assert (result.body.text, result.url) == ("there", there)
    assert [(each.status, each.url) for each in result.redirects] == [(301, there)]


METHODS = [
    (301, "POST", "GET", False),
    (302, "POST", "GET", False),
    (303, "POST", "GET", False),
    (303, "PUT", "GET", False),
    (303, "DELETE", "GET", False),
    (303, "HEAD", "HEAD", False),
    (301, "PUT", "PUT", True),
    (302, "DELETE", "DELETE", True),
    (307, "POST", "POST", True),
    (308, "PATCH", "PATCH", True),
    (302, "HEAD", "HEAD", False),
]


@pytest.mark.parametrize(("status", "method", "then", "kept"), METHODS)
async def test_the_method_changes_as_the_status_says(status: int, method: str, then: str, kept: bool) -> None:
    judged: list[tuple[str, int]] = []

    def judge(method: str, url: object, size: int) -> object:
        judged.append((method, size))
        return allow()(method, url, size)  # type: ignore[arg-type]

    script = routes(a=answer(b"", f"{status} X", Location="/b"), b=answer(b"", Content_Length="0"))
    body = None if method == "HEAD" else b"body"
    async with serve(script) as server:
        await fetch(
            f"http://{HOST}:{server.port}/a", judge, method=method, body=body, content_type="text/plain"
        )  # type: ignore[arg-type]
    second = server.seen[1]
    assert second.method == then
    assert second.body == (b"body" if kept else b"")
    if not kept and method != "HEAD":
        assert second.header("content-type") is None
    assert judged[1] == (then, 4 if kept else 0), "the policy judges what is sent, not what was asked for"


@pytest.mark.parametrize("status", [300, 304, 305, 306, 310, 332, 399])
async def test_other_3xx_are_answers(status: int) -> None:
    async with serve(answer(b"", f"{status} X", Location="http://evil.test/")) as server:
        result = await fetch(f"http://{HOST}:{server.port}/")
    assert (result.status, result.redirects, server.connections) == (status, (), 1)


async def test_refresh_and_meta_refresh_and_content_location_lead_nowhere() -> None:
    page = '<meta http-equiv="refresh" content="0;url=http://evil.test/">'
    script = answer(
        page,
        Refresh="0;url=http://evil.test/",
        Content_Location="http://evil.test/",
        Content_Type="text/html",
    )
    async with serve(script) as server:
        result = await fetch(f"http://{HOST}:{server.port}/")
    assert (result.status, result.url, server.connections) == (200, f"http://{HOST}:{server.port}/", 1)


async def test_a_redirect_without_location_is_an_answer() -> None:
    async with serve(answer("gone", "302 Found")) as server:
        assert (await fetch(f"http://{HOST}:{server.port}/")).body.text == "gone"


async def test_two_locations_are_refused() -> None:
    async with serve(raw(b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: //evil.test/\r\n\r\n")) as server:
        with pytest.raises(UpstreamFailed, match="location more than once"):
            await fetch(f"http://{HOST}:{server.port}/")


async def test_a_loop_ends_at_the_cap() -> None:
    async with serve(answer(b"", "302 Found", Location="/")) as server:
        with pytest.raises(UpstreamFailed, match="More than 3 redirects") as failed:
            await fetch(f"http://{HOST}:{server.port}/", allow(limits=WebLimits(redirects=3)))
    assert failed.value.reason == "web.redirects"
    assert server.connections == 4


async def test_the_body_of_a_redirect_is_not_read() -> None:
    script = routes(
        a=raw(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 99999999\r\n\r\nx"), b=answer("there")
    )
    async with serve(script) as server:
        assert (await fetch(f"http://{HOST}:{server.port}/a")).body.text == "there"


SENT = {
    "Authorization": "Bearer mine",
    "Cookie": "a=b",
    "X-Api-Key": "k",
    "Accept": "text/x",
    "User-Agent": "me",
}


async def test_another_origin_gets_no_credentials_of_the_caller() -> None:
    async with serve(answer()) as other:
        for location in (f"http://{OTHER}:{other.port}/", f"http://{HOST}:{other.port}/"):
            async with serve(answer(b"", "307 X", Location=location)) as server:
                await fetch(f"http://{HOST}:{server.port}/", BOTH, headers=SENT)
            assert server.seen[0].header("authorization") == "Bearer mine"
            seen = other.seen[-1]
            for name in ("authorization", "cookie", "x-api-key"):
                assert seen.header(name) is None
            assert (seen.header("accept"), seen.header("user-agent")) == ("text/x", "me")


async def test_the_same_origin_keeps_them() -> None:
    async with serve(routes(a=answer(b"", "307 X", Location="/b"), b=answer())) as server:
        await fetch(f"http://{HOST}:{server.port}/a", headers=SENT)
    assert server.seen[1].header("authorization") == "Bearer mine"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_body_is_never_handed_to_another_origin(status: int) -> None:
    async with serve(answer()) as other:
        script = answer(b"", f"{status} X", Location=f"http://{OTHER}:{other.port}/")
        async with serve(script) as server:
            with pytest.raises(PolicyDenied) as denied:
                await fetch(f"http://{HOST}:{server.port}/", BOTH, method="PUT", body=b"private")
    assert denied.value.rule == "floor.body_across_origins"
    assert other.connections == 0


async def test_an_injected_secret_stays_with_the_rule_that_injects_it() -> None:
    def judge(method: str, url: object, size: int) -> object:
        host = url.host  # type: ignore[attr-defined]
        return allow(HOST, OTHER, inject={"Authorization": "token"} if host == HOST else {})(
            method, url, size
        )  # type: ignore[arg-type]

    async with (
        serve(answer()) as other,
        serve(answer(b"", "302 X", Location=f"http://{OTHER}:{other.port}/")) as server,
    ):
        by = client(secrets={"token": "Bearer 0123456789"})
        await fetch(f"http://{HOST}:{server.port}/", judge, by=by)  # type: ignore[arg-type]
    assert server.seen[0].header("authorization") == "Bearer 0123456789"
    assert other.seen[0].header("authorization") is None
