"""Rows of the bypass list that a URL, a redirect or an answer decides: an MCP client calls `web_api`, by a
policy that opens one site on loopback; where a program could do the same, so does one before the proxy."""

# ruff: noqa: E501 - lists of hostile URLs

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.abc import ByteStream

from sandbox_server.access.http.head import HeadReader
from tests.access.doors import Canary, Program, program_of
from tests.access.http.lab import Script, Seen, Server, answer, raw, serve
from tests.access.http.test_hostile_answers import REFUSED, bomb, drip, endless
from tests.access.whole import Whole, Zone, whole

pytestmark = pytest.mark.anyio

SITE, OTHER, EVIL = "site.example.com", "other.example.com", "evil.example.org"
POLICY = """
roles:
  basic:
    tools: {allow: [web_api, code_execution]}
    web:
      allow:
        - hosts: [site.example.com]
          schemes: [http]
          ports: [PORT]
          methods: [GET, HEAD, POST, PUT]
          addresses: ["127.0.0.1/32"]
          inject: {X-Key: "secret://site_key"}
        - {hosts: [other.example.com], schemes: [http], ports: [PORT], methods: [GET, PUT], addresses: ["127.0.0.1/32"]}
      limits: {total: 2s, first_byte: 1s, decoded: 300KiB, body: 1MiB, redirects: 3}
    code: {egress: site, languages: {python: {}}}
egress:
  profiles:
    site: {allow: [{hosts: ["site.example.com:PORT"], addresses: ["127.0.0.1/32"]}]}
deployment: {warm: 0}
"""
KEY = "k3y-k3y-k3y-k3y"


@dataclass
class Site:
    """One server for all tests of this file, which answers as each of them says."""

    server: Server
    script: Script = answer()  # noqa: RUF009 - it has no state


@dataclass
class Here:
    server: Whole
    zone: Zone
    program: Program
    site: Site
    canary: Canary

    @property
    def base(self) -> str:
        return f"http://{SITE}:{self.site.server.port}"

    @property
    def seen(self) -> list[Seen]:
        return self.site.server.seen

    async def web(self, path: str = "/", **arguments: Any) -> dict[str, Any]:
        return await self.server.web(self.base + path, **arguments)


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


@pytest.fixture(scope="module")
async def opened(
    anyio_backend: str, canary: Canary, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Here]:
    directory: Path = tmp_path_factory.mktemp("tricks")
    zone = Zone()

    async def script(seen: Seen, stream: ByteStream) -> None:
        await site.script(seen, stream)

    async with serve(script) as server:
        site = Site(server)
        policy = POLICY.replace("PORT", str(server.port))
        async with (
            whole(directory, policy, zone, secrets={"site_key": KEY}) as composed,
            program_of(composed, "site") as program,
        ):
            yield Here(composed, zone, program, site, canary)


@pytest.fixture
def here(opened: Here) -> Here:
    """Every name is at this host, and nothing of the test before is left."""
    opened.zone.clear()
    opened.zone.others = ["127.0.0.1"]
    opened.seen.clear()
    opened.site.server.connections = 0
    opened.canary.touched()
    opened.site.script = answer()
    return opened


def cause(told: dict[str, Any]) -> str:
    """Why nothing was sent, or nothing shown."""
    assert told.get("code") in ("policy_denied", "invalid_request", "upstream_failed"), told
    return str(told.get("reason") or told.get("rule") or told["message"])


# --- URL tricks. PORT is the allowed site's, so that a URL that is taken for it would get there.

TRICKS: dict[str, tuple[str, ...]] = {
    "allowed@evil": (f"http://{SITE}@{EVIL}:PORT/", f"http://{SITE}:PORT@{EVIL}:PORT/", f"http://@{SITE}:PORT/"),
    "evil#@allowed": (f"http://{EVIL}#@{SITE}:PORT/", f"http://{EVIL}:PORT#@{SITE}:PORT/", f"http://#@{SITE}:PORT/"),
    "\\@": (f"http://{EVIL}\\@{SITE}:PORT/", f"http://{SITE}:PORT\\@{EVIL}/"),
    "%2f@": (f"http://{EVIL}%2f@{SITE}:PORT/", f"http://{SITE}:PORT%2f@{EVIL}/"),
    "?@": (f"http://{EVIL}?@{SITE}:PORT/", f"http://?@{SITE}:PORT/"),
    "//evil": (f"//{SITE}:PORT/", f"http:////{SITE}:PORT/"),
    "http:evil": (f"http:{SITE}:PORT",),
    "http:/\\evil": (f"http:/\\{SITE}:PORT/", f"http:\\\\{SITE}:PORT/"),
    "tabs and newlines": (
        f"http://{SITE}\t:PORT/", f"http://{SITE}\n:PORT/", f"ht\ttp://{SITE}:PORT/", f"http://{SITE}:PORT/\r\nX: y",
        f" http://{SITE}:PORT/", f"http://{SITE}:PORT/ ", f"http://{SITE}: PORT/", "http://si\tte.example.com:PORT/",
    ),
    "%00": (f"http://{SITE}%00.{EVIL}:PORT/", f"http://{SITE}:PORT/%00", f"http://{EVIL}%00@{SITE}:PORT/"),
    "%0d%0a in path": (f"http://{SITE}:PORT/%0d%0aHost:%20{EVIL}", f"http://{SITE}:PORT/a%0ab"),
    "%0d%0a in host": (f"http://{SITE}%0d%0aHost:%20{EVIL}:PORT/", f"http://{SITE}%0d%0a:PORT/"),
    "fragment confusion": (f"http://{EVIL}#{SITE}:PORT/", f"http://{EVIL}:PORT/#{SITE}:PORT/", f"http://{EVIL}#.{SITE}:PORT/", f"http://{EVIL};{SITE}:PORT/"),
    "missing scheme": (f"{SITE}:PORT/", f"://{SITE}:PORT/", f"/{SITE}:PORT", ""),
    **{
        scheme: (f"{scheme}://{SITE}:PORT/", f"{scheme}:{SITE}:PORT", f"{scheme.upper()}://{SITE}:PORT/")
        for scheme in (
            "file: gopher: dict: ftp: sftp: tftp: ldap: jar: netdoc: data: javascript: http+unix: unix: ws:"
        ).replace(":", "").split()
    },
    "port 0": (f"http://{SITE}:0/",),
    "port 080": (f"http://{SITE}:0PORT/", f"http://{SITE}:080/"),
    "port 65536": (f"http://{SITE}:65536/", f"http://{SITE}:{65536 + 80}/", f"http://{SITE}:OVERFLOW/"),
    "port :80:443": (f"http://{SITE}:PORT:443/", f"http://{SITE}:443:PORT/"),
    "negative port": (f"http://{SITE}:-PORT/", f"http://{SITE}:+PORT/"),
    "named port": (f"http://{SITE}:http/", f"http://{SITE}:/"),
}  # fmt: skip


@pytest.mark.parametrize("item", TRICKS)
async def test_a_url_that_parsers_read_differently_goes_nowhere(item: str, here: Here) -> None:
    port = here.site.server.port
    for trick in TRICKS[item]:
        url = trick.replace("PORT", str(port)).replace("OVERFLOW", str(port + 65536))
        assert cause(await here.server.web(url, timeout=2)), url
        head = f"GET {url} HTTP/1.1\r\nHost: {SITE}:{port}\r\nConnection: close\r\n\r\n"
        told = await here.program.say(head.encode())
        assert told.split(b" ")[1:2] != [b"200"], url
    assert (here.site.server.connections, here.zone.asked) == (0, [])


async def test_line_breaks_in_header_values_are_refused(here: Here) -> None:
    for value in ("a\r\nHost: evil", "a\nX: y", "a\rX: y", "a\0b"):
        assert "line breaks" in cause(await here.web(headers={"X-A": value}))
    assert here.site.server.connections == 0
    assert (await here.web(headers={"X-A": "a%0d%0aX-B: y"}))["status"] == 200
    assert here.seen[0].header("x-a") == "a%0d%0aX-B: y"
    assert here.seen[0].header("x-b") is None
    lines = f"Host: {SITE}:{here.site.server.port}\r\nConnection: close\r\n"
    for value in (b"a\nX-B: y", b"a\rX-B: y", b"a\0b"):
        told = await here.program.say(
            f"GET {here.base}/ HTTP/1.1\r\n{lines}X-A: ".encode() + value + b"\r\n\r\n"
        )
        assert told.split(b" ")[1] == b"400" or here.seen[-1].header("x-a") == "a", value


# --- redirects


def to(location: str, status: str = "302 X", **headers: str) -> Script:
    """Answers the first request with a redirect, and every other one with what it had."""

    async def script(seen: Seen, stream: ByteStream) -> None:
        first = seen.target == "/go"
        await (answer(b"", status, Location=location, **headers) if first else answer("there"))(seen, stream)

    return script


OUT: dict[str, tuple[str, ...]] = {
    "private IP": ("http://127.0.0.1:CANARY/", "http://10.0.0.1/", "http://[::1]:CANARY/", "http://2130706433:CANARY/"),
    "metadata": ("http://169.254.169.254/latest/", "http://[fd00:ec2::254]/", "http://metadata.google.internal/"),
    "other scheme": ("file:///etc/passwd", "gopher://site.example.com:PORT/", "javascript:alert(1)", "ftp://site.example.com/"),
    "other port": ("http://site.example.com:CANARY/", "http://site.example.com/", "//other.example.com:CANARY/"),
    "protocol-relative": ("//evil.example.org:PORT/", "//127.0.0.1:CANARY/", "///evil.example.org/", "/\\evil.example.org"),
    "with userinfo": ("http://site.example.com@evil.example.org:PORT/", "//user:word@site.example.com:PORT/"),
}  # fmt: skip


@pytest.mark.parametrize("item", OUT)
async def test_a_redirect_out_of_the_policy_is_not_followed(item: str, here: Here) -> None:
    for location in OUT[item]:
        port = str(here.site.server.port)
        url = location.replace("PORT", port).replace("CANARY", str(here.canary.port))
        here.site.script = to(url)
        told = await here.web("/go")
        assert (told["code"], "redirect" in told["message"]) == ("policy_denied", True), told
        assert [each.target for each in here.seen] == ["/go"], url
        here.seen.clear()
    assert here.canary.touched() == 0
    assert set(here.zone.asked) == {SITE}


async def test_a_redirect_to_an_allowed_name_that_is_at_a_private_address_is_not_followed(here: Here) -> None:
    here.zone.names[OTHER] = [["10.0.0.1"]]
    here.site.script = to(f"http://{OTHER}:{here.site.server.port}/")
    assert cause(await here.web("/go")) == "floor.address"


async def test_a_relative_redirect_stays_at_its_origin(here: Here) -> None:
    for location, target in (
        ("b?x=1", "/b?x=1"),
        ("../../c", "/c"),
        ("/d", "/d"),
        ("?e", "/go?e"),
        ("./f", "/f"),
    ):
        here.site.script = to(location)
        told = await here.web("/go")
        assert (told["text"], told["url"]) == ("there", here.base + target)
        assert [each.target for each in here.seen] == ["/go", target]
        assert {each.header("host") for each in here.seen} == {f"{SITE}:{here.site.server.port}"}
        here.seen.clear()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_body_is_not_carried_to_another_allowed_host(status: int, here: Here) -> None:
    here.site.script = to(f"http://{OTHER}:{here.site.server.port}/", f"{status} X")
    told = await here.web("/go", method="PUT", data="private")
    assert cause(told) == "floor.body_across_origins"
    assert [each.target for each in here.seen] == ["/go"]


@pytest.mark.parametrize("status", [300, 304, 305, 306, 332])
async def test_only_the_five_redirects_are_followed(status: int, here: Here) -> None:
    here.site.script = to(f"http://{SITE}:{here.canary.port}/", f"{status} X")
    assert (await here.web("/go"))["status"] == status
    assert here.canary.touched() == 0


LEADS: dict[str, tuple[str, str]] = {
    "Refresh": ("Refresh", "0;url=URL"),
    "meta refresh": ("X-None", '<meta http-equiv="refresh" content="0;url=URL">'),
    "Content-Location": ("Content-Location", "URL"),
    "Alt-Svc": ("Alt-Svc", 'h2="site.example.com:CANARY"; ma=3600; persist=1, http/1.1=":CANARY"'),
    "HSTS": ("Strict-Transport-Security", "max-age=31536000; includeSubDomains; preload"),
    "Link": ("Link", "<URL>; rel=preload"),
}


@pytest.mark.parametrize("item", LEADS)
async def test_nothing_else_that_an_answer_says_leads_anywhere(item: str, here: Here) -> None:
    name, value = LEADS[item]
    elsewhere = value.replace("URL", f"{here.base}/elsewhere").replace("CANARY", str(here.canary.port))
    here.site.script = answer(elsewhere, **{"Content_Type": "text/html", name.replace("-", "_"): elsewhere})
    for _ in range(2):
        told = await here.web("/")
        assert (told["status"], told["url"], told["redirects"]) == (200, f"{here.base}/", [])
    assert [each.line for each in here.seen] == ["GET / HTTP/1.1"] * 2
    assert (here.site.server.connections, here.canary.touched()) == (2, 0)


async def test_a_redirect_loop_ends(here: Here) -> None:
    here.site.script = answer(b"", "302 X", Location="/go")
    assert cause(await here.web("/go")) == "web.redirects"
    assert len(here.seen) == 4


@pytest.mark.parametrize(
    ("status", "method", "then"), [(303, "PUT", "GET"), (307, "PUT", "PUT"), (308, "POST", "POST")]
)
async def test_the_method_changes_as_the_status_says_and_is_judged_anew(
    status: int, method: str, then: str, here: Here
) -> None:
    here.site.script = to("/b", f"{status} X")
    await here.web("/go", method=method, data="body")
    assert [(each.method, each.body) for each in here.seen] == [
        (method, b"body"),
        (then, b"" if then == "GET" else b"body"),
    ]
    judged = await here.server.record("decision")
    assert [each["args"]["method"] for each in judged[-2:]] == [method, then]


async def test_credentials_do_not_cross_origins(here: Here) -> None:
    here.site.script = to(f"http://{OTHER}:{here.site.server.port}/", "307 X")
    mine = {"Authorization": "Bearer mine", "Cookie": "a=b", "X-Api-Key": "k", "Accept": "text/x"}
    told = await here.web("/go", headers=mine)
    assert told["status"] == 200
    first, second = here.seen
    assert (first.header("x-key"), first.header("authorization")) == (KEY, "Bearer mine")
    assert [second.header(name) for name in ("x-key", "authorization", "cookie", "x-api-key")] == [None] * 4
    assert second.header("accept") == "text/x"
    assert KEY not in str(told)


# --- answers


@pytest.mark.parametrize("item", REFUSED)
async def test_an_answer_that_can_be_read_in_two_ways_is_not_shown(item: str, here: Here) -> None:
    reason, data = REFUSED[item]
    here.site.script = raw(data)
    told = await here.web("/")
    assert (told["code"], told["reason"]) == ("upstream_failed", reason)


PASSED_ON = {
    "brotli", "zstd", "nested encodings", "two encodings", "no gzip at all", "no deflate at all", "a status of 999",
}  # fmt: skip
"""What a body is packed in, and what a number means, is the program's own affair."""


@pytest.mark.parametrize("item", sorted(REFUSED.keys() - PASSED_ON))
async def test_a_program_gets_no_answer_that_can_be_read_in_two_ways(item: str, here: Here) -> None:
    """Through the proxy: a refusal of its own, or an answer that it has written itself."""
    here.site.script = raw(REFUSED[item][1])
    port = here.site.server.port
    head = f"GET {here.base}/ HTTP/1.1\r\nHost: {SITE}:{port}\r\nConnection: close\r\n\r\n"
    told = await here.program.say(head.encode())
    reader = HeadReader(max_bytes=64 * 1024, max_lines=10_010)
    reader.feed(told)
    assert reader.done
    assert told.count(b"HTTP/1.1 ") == 1
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", told, re.IGNORECASE)
    body = told.partition(b"\r\n\r\n")[2]
    assert length is None or len(body) <= int(length[1])


@pytest.mark.parametrize(("name", "bits"), [("gzip", 31), ("deflate", 15)])
async def test_a_bomb_is_defused(name: str, bits: int, here: Here) -> None:
    here.site.script = answer(bomb(bits), Content_Encoding=name, Content_Type="image/x")
    told = await here.web("/")
    assert told["truncated"]
    assert len(told["base64"]) <= 256 * 1024 * 4 / 3 + 4
    assert told["received_bytes"] < 200_000


async def test_a_body_without_end_and_one_in_drops_are_left(here: Here) -> None:
    here.site.script = endless
    told = await here.web("/")
    assert told["truncated"]
    assert told["received_bytes"] <= 1024 * 1024

    async def drops(seen: Seen, stream: ByteStream) -> None:
        await drip(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b"a")

    here.site.script = drops
    assert cause(await here.web("/")) == "web.timeout"


async def test_what_follows_an_answer_and_what_it_sets_is_nobody_elses(here: Here) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    here.site.script = raw(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: id=1; Path=/\r\nContent-Length: 2\r\n\r\nok" + poison
    )
    told = [await here.web("/") for _ in range(2)]
    assert [(each["text"], each["headers"]) for each in told] == [("ok", {})] * 2
    assert [each.header("cookie") for each in here.seen] == [None, None]
    assert here.site.server.connections == 2


@pytest.mark.parametrize(
    "kind", ["multipart/mixed; boundary=b", "multipart/x-mixed-replace; boundary=b", "message/http"]
)
async def test_parts_of_a_multipart_answer_are_bytes_and_nothing_more(kind: str, here: Here) -> None:
    part = "--b\r\nSet-Cookie: id=1\r\nLocation: /elsewhere\r\nContent-Encoding: gzip\r\n\r\none\r\n--b--"
    here.site.script = answer(part, Content_Type=kind)
    told = [await here.web("/") for _ in range(2)]
    assert [(each["status"], each["headers"], each["redirects"]) for each in told] == [
        (200, {"content-type": kind}, [])
    ] * 2
    assert [(each.line, each.header("cookie")) for each in here.seen] == [("GET / HTTP/1.1", None)] * 2
