"""Rows of the bypass list that a host alone decides: at `web_api` as an MCP client calls it, and at the
three doors of the proxy that sandboxes get out by. The policy only observes: the floor alone refuses here."""

# ruff: noqa: RUF001 - characters that look like others are what this is about

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.access.doors import Canary, Program, program_of
from tests.access.whole import Whole, Zone, whole

pytestmark = pytest.mark.anyio

OBSERVING = """
enforcement: observe
roles:
  basic:
    tools: {allow: [web_api, code_execution]}
    web:
      allow:
        - {hosts: [wide.example.com], schemes: [http], ports: [80], addresses: OPENED}
    code: {egress: site, languages: {python: {}}}
egress:
  profiles:
    site: {allow: [{hosts: ["wide.example.com:80"], addresses: OPENED}]}
deployment: {warm: 0}
"""
OPENED = '["169.254.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "168.63.129.16/28", "fd00::/8", "127.0.0.0/8"]'


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


@dataclass
class Here:
    server: Whole
    zone: Zone
    program: Program


@pytest.fixture(scope="module")
async def opened(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    directory: Path = tmp_path_factory.mktemp("spellings")
    zone = Zone()
    async with (
        whole(directory, OBSERVING.replace("OPENED", OPENED), zone) as server,
        program_of(server, "site") as program,
    ):
        yield Here(server, zone, program)


@pytest.fixture
def here(opened: Here) -> Here:
    """Every name is at this host, until a test says otherwise."""
    opened.zone.clear()
    opened.zone.others = ["127.0.0.1"]
    return opened


def cause(told: dict[str, object]) -> object:
    assert told["code"] == "policy_denied", told
    return told.get("reason") or told["rule"]


NUMBER, ADDRESS, HOST, UNICODE = "url.host_number", "floor.address", "url.host", "url.host_unicode"
NEVER = "metadata_address"

ADDRESSES: dict[str, tuple[set[str], str]] = {
    "decimal": ({NUMBER}, "2130706433 3232235521"),
    "hex": ({NUMBER}, "0x7f000001 0x7f.0.0.1 0X7F000001 0x7f.0x0.0x0.0x1"),
    "octal": ({NUMBER}, "0177.0.0.1 017700000001 0300.0250.0.1"),
    "mixed": ({NUMBER}, "0x7f.1 127.0.0x1 0177.0x0.0.1 127.0.0.0x1"),
    "short": ({NUMBER}, "127.1 127.0.1"),
    "leading zeros": ({NUMBER}, "127.000.000.001 127.0.0.01 010.0.0.1"),
    "trailing dot": ({ADDRESS, HOST, NUMBER}, "127.0.0.1. 127.0.0.1.. 2130706433. 127.1."),
    "percent-encoded": ({HOST}, "%31%32%37.0.0.1 127%2e0.0.1 127.0.0.1%00 127.0.0.1%2e"),
    "enclosed alphanumerics": ({UNICODE}, "①②⑦.⓪.⓪.① ⑴⑵⑺.0.0.1"),
    "fullwidth dots": ({UNICODE}, "127。0。0。1 127．0．0．1 127｡0｡0｡1 １２７.0.0.1"),
    "IPv6-mapped": ({ADDRESS, NEVER}, "[::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1]"),
    "IPv4-compatible": ({ADDRESS, NEVER}, "[::127.0.0.1] [::7f00:1] [::10.0.0.1]"),
    "translated": ({ADDRESS, NEVER}, "[::ffff:0:127.0.0.1] [::ffff:0:a00:1]"),
    "NAT64": ({ADDRESS, NEVER}, "[64:ff9b::7f00:1] [64:ff9b::10.0.0.1] [64:ff9b:1::10.0.0.1]"),
    "6to4": ({ADDRESS, NEVER}, "[2002:7f00:1::] [2002:a00:1::1]"),
    "Teredo": ({ADDRESS, NEVER}, "[2001:0:4136:e378:8000:63bf:3fff:fdd2]"),
    "ISATAP": ({ADDRESS, NEVER}, "[fe80::5efe:7f00:1] [2607:f8b0::5efe:7f00:1] [2607:f8b0::200:5efe:a00:1]"),
    "zone ids": ({"url.host_zone"}, "[fe80::1%25eth0] [fe80::1%eth0] [::1%25lo]"),
    "[::]": ({ADDRESS, NEVER}, "[::] [0:0:0:0:0:0:0:0]"),
    "0.0.0.0": ({ADDRESS, NEVER}, "0.0.0.0 0.1.2.3"),
    "0": ({NUMBER}, "0 0x0 00"),
    "127.0.0.2": ({ADDRESS}, "127.0.0.2"),
    "127.127.127.127": ({ADDRESS}, "127.127.127.127 127.255.255.254"),
    "broadcast": ({ADDRESS}, "255.255.255.255"),
    "multicast": ({ADDRESS}, "224.0.0.1 239.255.255.250 [ff02::1] [ff0e::1]"),
    "CGNAT": ({ADDRESS}, "100.64.0.1 100.127.255.255"),
    "TEST-NETs": ({ADDRESS}, "192.0.2.1 198.51.100.1 203.0.113.1 [2001:db8::1]"),
    "benchmark": ({ADDRESS}, "198.18.0.1 198.19.255.255"),
    "link-local": ({ADDRESS}, "169.254.1.1 [fe80::1]"),
    "ULA": ({ADDRESS}, "[fd00::1] [fc00::1]"),
}


@pytest.mark.parametrize("item", ADDRESSES)
async def test_an_address_in_another_spelling_is_refused(item: str, here: Here, canary: Canary) -> None:
    causes, hosts = ADDRESSES[item]
    for host in hosts.split():
        assert cause(await here.server.web(f"http://{host}:{canary.port}/", timeout=2)) in causes, host
        assert await here.program.refused(host, canary.port) == ["http", "connect", "socks"], host
    assert (canary.touched(), here.zone.asked) == (0, [])


LOCAL, SINGLE, METADATA = "url.host_local", "url.host_single_label", "url.host_metadata"

NAMES: dict[str, tuple[set[str], str]] = {
    "localhost": ({LOCAL}, "localhost"),
    "localhost.": ({LOCAL}, "localhost."),
    "*.localhost": ({LOCAL}, "a.localhost a.b.localhost."),
    "localhost.localdomain": ({LOCAL}, "localhost.localdomain a.localdomain"),
    "ip6-localhost": ({LOCAL}, "ip6-localhost ip6-loopback"),
    "nip.io": ({ADDRESS}, "127.0.0.1.nip.io 7f000001.nip.io"),
    "sslip.io": ({ADDRESS}, "127.0.0.1.sslip.io 127-0-0-1.sslip.io"),
    "xip": ({ADDRESS}, "127.0.0.1.xip.io"),
    "metadata.google.internal": ({METADATA}, "metadata.google.internal metadata.google.internal."),
    "instance-data": ({METADATA}, "instance-data instance-data.ec2.internal"),
    "kubernetes.default.svc": ({ADDRESS}, "kubernetes.default.svc kubernetes.default.svc.cluster.local"),
    "host.docker.internal": ({LOCAL}, "host.docker.internal"),
    "gateway.docker.internal": ({LOCAL}, "gateway.docker.internal"),
    "single-label names": ({SINGLE}, "intranet kubernetes com."),
    ".internal": ({ADDRESS}, "db.corp.internal"),
    ".local": ({ADDRESS}, "printer.local"),
    ".home.arpa": ({ADDRESS}, "nas.home.arpa"),
    "upper case": ({LOCAL, METADATA, ADDRESS}, "LOCALHOST Metadata.Google.INTERNAL 127.0.0.1.NIP.io"),
    "trailing dots": ({LOCAL, METADATA, HOST}, "localhost.. metadata.google.internal. 127.0.0.1.nip.io.."),
    "soft hyphen": ({UNICODE}, "local\u00adhost.example.com"),
    "ZWJ": ({UNICODE}, "local\u200dhost.example.com"),
    "BOM": ({UNICODE, "url.characters"}, "\ufefflocalhost.example.com"),
}


@pytest.mark.parametrize("item", NAMES)
async def test_a_name_of_this_house_is_refused(item: str, here: Here, canary: Canary) -> None:
    causes, hosts = NAMES[item]
    for host in hosts.split(" "):
        assert cause(await here.server.web(f"http://{host}:{canary.port}/", timeout=2)) in causes, host
        assert await here.program.refused(host, canary.port) == ["http", "connect", "socks"], host
    assert canary.touched() == 0
    assert bool(here.zone.asked) == (ADDRESS in causes), "what the floor refuses is not even looked up"


@pytest.mark.parametrize("host", ["аllowed.com", "ехаmple.com", "\u0131nternal.com", "wıde.example.com"])
async def test_a_name_that_looks_like_another_is_itself(host: str, here: Here, canary: Canary) -> None:
    """Unicode confusables: what is judged, and looked up, is the name that was registered."""
    told = await here.server.web(f"http://{host}:{canary.port}/", timeout=2)
    assert cause(told) in (ADDRESS, UNICODE)
    assert all(each.startswith("xn--") for each in here.zone.asked)
    assert await here.program.refused(host, canary.port) == ["http", "connect", "socks"]
    assert canary.touched() == 0


SERVICES: dict[str, str] = {
    "169.254.169.254": "169.254.169.254",
    "[fd00:ec2::254]": "fd00:ec2::254",
    "169.254.170.2": "169.254.170.2",
    "169.254.170.23": "169.254.170.23",
    "100.100.100.200": "100.100.100.200",
    "192.0.0.192": "192.0.0.192",
    "168.63.129.16": "168.63.129.16",
    "169.254.0.23": "169.254.0.23",
    "in disguise": "::ffff:169.254.169.254",
    "NAT64 of it": "64:ff9b::a9fe:a9fe",
}


@pytest.mark.parametrize("item", SERVICES)
async def test_no_metadata_service_is_reached_not_even_where_its_network_is_opened(
    item: str, here: Here
) -> None:
    address = SERVICES[item]
    literal = f"[{address}]" if ":" in address else address
    assert cause(await here.server.web(f"http://{literal}/latest/", timeout=2)) in (NEVER, ADDRESS)
    here.zone.names["wide.example.com"] = [[address]]
    told = await here.server.web("http://wide.example.com/latest/", timeout=2)
    assert cause(told) == ADDRESS
    assert "cloud metadata" in told["message"]
    for host in (literal, "wide.example.com"):
        assert await here.program.refused(host, 80) == ["http", "connect", "socks"]
