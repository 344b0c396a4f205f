"""For any text in the place of a URL: it is refused, or the host that is connected to is the judged one.

Each name has an address of its own on loopback, so that a server sees by which one it was reached.
"""

# ruff: noqa: RUF001, E501 - characters that look like others are what this is about

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox_server.access.egress import Connect, Dialler, Gateway
from sandbox_server.access.http.models import WebRequest
from sandbox_server.errors import PolicyDenied, UpstreamFailed
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.urls import Url, UrlRefused, parse_url
from sandbox_server.guards.web import EgressGrant, EgressLimits, WebGrant, WebLimits
from tests.access.doors import Program, program_with
from tests.access.http.lab import Seen, answer, client, serve
from tests.access.whole import Whole, whole

LOOPBACK = ip_network("127.0.0.0/8")
QUICK = WebLimits(total=3, connect=1, first_byte=1)


def home(host: str) -> IPv4Address:
    """The one address of a name."""
    digest = hashlib.sha256(host.encode()).digest()
    return IPv4Address(bytes((127, *(each % 250 + 2 for each in digest[:3]))))


def place(host: str) -> IPAddress:
    """Where a host in canonical form is."""
    return ip_address(host) if host[0].isdigit() and host.replace(".", "").isdigit() else home(host)


@dataclass
class Town:
    """Resolves every name to its home, judges all, and keeps what was judged, asked and reached."""

    port: int = 0
    judged: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    reached: list[tuple[IPAddress, Seen]] = field(default_factory=list)
    location: str = ""

    def clear(self, location: str = "") -> None:
        self.judged, self.asked, self.reached, self.location = [], [], [], location

    async def resolve(self, host: str, port: int, principal: str = "") -> Sequence[IPAddress]:
        self.asked.append(host)
        return [home(host)]

    async def script(self, seen: Seen, stream: ByteStream) -> None:
        self.reached.append((ip_address(stream.extra(SocketAttribute.local_address)[0]), seen))
        away = self.location and seen.target == "/go"
        await (answer(b"", "302 X", Location=self.location) if away else answer())(seen, stream)

    def judge_web(self, method: str, url: Url, size: int) -> WebGrant:
        self.judged.append(url)
        self._check(url.address, url.port)
        return WebGrant("test", addresses=(LOOPBACK,), limits=QUICK)

    def judge_egress(self, connect: Connect) -> EgressGrant:
        self.judged.append(connect)
        literal = parse_url(f"http://{connect.host}/").address
        self._check(literal, connect.port)
        return EgressGrant("test", addresses=(LOOPBACK,))

    def _check(self, address: IPAddress | None, port: int) -> None:
        """Nothing of this leaves the machine."""
        if port != self.port or (address is not None and address not in LOOPBACK):
            raise PolicyDenied("elsewhere", rule="default")


@dataclass
class World:
    portal: BlockingPortal
    town: Town
    server: Whole
    program: Program


POLICY = """
roles:
  basic:
    tools: {allow: [web_api]}
    web:
      allow: [{hosts: ["*.allowed.example"], schemes: [http], ports: [PORT], addresses: ["127.0.0.0/8"]}]
      limits: {total: 3s, connect: 1s, first_byte: 1s}
deployment: {warm: 0}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory: Path = tmp_path_factory.mktemp("any-url")
    town = Town()
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        enter = partial(_enter, stack, portal)
        town.port = enter(serve(town.script, host="0.0.0.0")).port
        policy = POLICY.replace("PORT", str(town.port))
        server = enter(whole(directory, policy, town))
        gateway = Gateway(
            town.judge_egress, lambda profile: EgressLimits(), dialler=Dialler(town.resolve, own=tuple)
        )
        program = enter(program_with(gateway.outlet(EgressAccess("any", "somebody"))))
        yield World(portal, town, server, program)


def _enter(stack: ExitStack, portal: BlockingPortal, manager: Any) -> Any:
    return stack.enter_context(portal.wrap_async_context_manager(manager))


PIECES = """
http:// HTTP:// https:// // / \\ @ : ? # % %2f %40 %00 %0d%0a %25 . .. [ ] ; , & = _ - * :PORT :PORT/ :PORT@ :80 :0PORT
a.allowed.example b.allowed.example evil.example allowed.example a.ALLOWED.example. 127.0.0.9 127.9 2130706441 [::1]
[::ffff:127.0.0.9] 0x7f.9 xn--bcher-kva.allowed.example bücher.allowed.example аllowed.example localhost
① 。 ． \u00ad \u200b \u200d \ufeff \u2028 \u212a é
"""
PIECE = st.sampled_from([*PIECES.split(), " ", "\t", "\r\n", "\x00", "\x7f"])
WHOLE = st.sampled_from(
    [
        "http://a.allowed.example:PORT/path?query#end",
        "http://b.allowed.example:PORT",
        "http://127.0.0.9:PORT/x/../y",
        "http://bücher.allowed.example:PORT/",
        "http://a.allowed.example.:PORT/%41",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A URL that would be taken, with something put into it, taken out of it or instead of it."""
    text = draw(WHOLE)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.one_of(PIECE, st.characters())) + text[at + draw(st.integers(0, 2)) :]
    return text


TEXT = st.one_of(
    mutated(),
    st.lists(PIECE, max_size=8).map("".join),
    st.lists(PIECE, max_size=6).map(lambda pieces: f"http://{''.join(pieces)}:PORT/"),
    st.text(max_size=40),
)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(town: Town, hop: int, url: Url) -> None:
    """That this hop was judged, looked up and connected to as the one thing that it is."""
    address, seen = town.reached[hop]
    assert str(town.judged[hop]) == str(url)
    assert address == place(url.host)
    assert (seen.header("host"), seen.target) == (url.authority, url.target)


@MANY
@given(TEXT)
@example("http://a.allowed.example:PORT@b.allowed.example:PORT/")
@example("http://a.allowed.example:PORT#@b.allowed.example:PORT/")
@example("http://a.allowed.example:PORT\\@b.allowed.example:PORT/")
def test_web_connects_to_what_was_judged_or_not_at_all(world: World, text: str) -> None:
    town, text = world.town, text.replace("PORT", str(world.town.port))
    town.clear()
    try:
        url = parse_url(text)
        world.portal.call(partial(_fetch, town, url))
    except (UrlRefused, PolicyDenied, UpstreamFailed):
        assert town.reached == []
        return
    assert town.asked == ([] if url.address else [url.host])
    assert len(town.judged) == len(town.reached) == 1
    check(town, 0, url)


@MANY
@given(TEXT)
@example("//b.allowed.example:PORT/")
@example("//a.allowed.example:PORT@b.allowed.example:PORT/")
@example("/\\b.allowed.example:PORT/")
def test_a_redirect_leads_to_what_was_judged_or_nowhere(world: World, text: str) -> None:
    """Whatever stands in Location, as far as it can stand there."""
    town = world.town
    location = text.replace("PORT", str(town.port)).encode("ascii", "ignore").decode()
    location = "".join(each for each in location if each not in "\r\n\x00").strip()
    town.clear(location)
    start = parse_url(f"http://start.allowed.example:{town.port}/go")
    try:
        world.portal.call(partial(_fetch, town, start))
    except (PolicyDenied, UpstreamFailed):
        assert all(address == home(start.host) for address, _ in town.reached)
        return
    urls = [start]
    if location:
        urls.append(start.join(location))
    assert len(town.judged) == len(town.reached) == len(urls)
    for hop, url in enumerate(urls):
        check(town, hop, url)


async def _fetch(town: Town, url: Url) -> None:
    await client(town).fetch(WebRequest("GET", url), town.judge_web, principal="alice")


@MANY
@given(TEXT)
def test_the_tool_connects_to_what_its_answer_names_or_not_at_all(world: World, text: str) -> None:
    """By a policy, from an MCP client."""
    town = world.town
    town.clear()
    told = world.portal.call(world.server.web, text.replace("PORT", str(town.port)))
    if "code" in told:
        assert town.reached == []
        return
    url = parse_url(told["url"])
    ((address, seen),) = town.reached
    assert url.host.endswith(".allowed.example")
    assert (address, seen.header("host")) == (home(url.host), url.authority)
    assert town.asked == [url.host]


DOORS = ("http", "connect", "socks")


@MANY
@given(TEXT, st.sampled_from(DOORS))
@example("b.allowed.example:PORT", "connect")
@example("b.allowed.example", "socks")
@example("http://b.allowed.example:PORT/x", "http")
def test_a_program_is_connected_to_what_was_judged_or_not_at_all(world: World, text: str, door: str) -> None:
    town = world.town
    town.clear()
    raw = text.replace("PORT", str(town.port)).encode("utf-8", "surrogatepass")
    get = b"GET /inner HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
    if door == "http":
        host = raw.partition(b"//")[2].partition(b"/")[0]
        said = get.replace(b"/inner", b"%b", 1) % (raw, host)
    elif door == "connect":
        said = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (raw, raw) + get % raw
    else:
        name = raw[:255]
        said = b"\5\1\0\5\1\0\3" + bytes([len(name)]) + name + town.port.to_bytes(2, "big")
        said += get % (b"%b:%d" % (name, town.port))
    world.portal.call(_say, world.program, said)
    for address, seen in town.reached:
        (connect,) = {(each.host, each.port) for each in town.judged}
        assert address == place(connect[0])
        assert connect[1] == town.port
        assert set(town.asked) <= {connect[0]}
        assert parse_url(f"http://{seen.header('host')}/").host == connect[0]


async def _say(program: Program, data: bytes) -> None:
    with anyio.move_on_after(5) as late:
        await program.say(data)
    assert not late.cancelled_caught


@contextmanager
def reaching(town: Town) -> Iterator[None]:
    before = len(town.reached)
    yield
    assert len(town.reached) == before + 1


@pytest.mark.parametrize(
    "text", ["http://a.allowed.example:PORT/", "HTTP://A.Allowed.Example.:PORT/a/../b#c"]
)
def test_what_is_right_is_taken(world: World, text: str) -> None:
    """Or the properties above would hold of a server that refuses all."""
    town = world.town
    town.clear()
    url = text.replace("PORT", str(town.port))
    with reaching(town):
        assert world.portal.call(world.server.web, url)["status"] == 200
    with reaching(town):
        world.portal.call(partial(_fetch, town, parse_url(url)))
    host = parse_url(url).authority
    for said in (
        f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nGET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
    ):
        with reaching(town):
            world.portal.call(_say, world.program, said.encode())
