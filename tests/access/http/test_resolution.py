"""Between a name and a connection: every address is judged, and the connection goes to a judged one."""

from __future__ import annotations

import threading
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_server.access.http import resolver as resolver_module
from sandbox_server.access.http.client import AT_ONCE
from sandbox_server.access.http.own import OwnAddresses
from sandbox_server.access.http.resolver import EACH, SystemResolver
from sandbox_server.errors import Busy, PolicyDenied, UpstreamFailed, UpstreamUnreachable
from sandbox_server.guards.urls import Url
from sandbox_server.guards.web import WebGrant
from tests.access.http.lab import HOST, QUICK, Names, allow, answer, client, fetch, serve

ANYTHING = WebGrant(rule="test", limits=QUICK)


def anything(method: str, url: Url, size: int) -> WebGrant:
    """A policy that allows every URL: what is denied is denied by the floor."""
    return ANYTHING


NAMES = """
localtest.me.example 127.0.0.1.nip.io 10.0.0.1.sslip.io 7f000001.xip.io printer.local nas.home.arpa
db.corp.internal kubernetes.default.svc vault.default.svc.cluster.local public.example.test
"""


@pytest.mark.parametrize("host", NAMES.split())
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1"])
async def test_a_name_of_a_reserved_address_is_denied_whatever_it_is_called(host: str, address: str) -> None:
    async with serve(answer()) as server:
        with pytest.raises(PolicyDenied) as denied:
            await fetch(f"http://{host}:{server.port}/", anything, by=client(Names(**{host: [address]})))
    assert denied.value.rule == "floor.address"
    assert server.connections == 0


LITERALS = """
127.0.0.1 127.0.0.2 0.0.0.0 10.0.0.1 169.254.169.254 100.100.100.200 192.0.0.192 168.63.129.16
224.0.0.1 255.255.255.255 100.64.0.1 192.0.2.1 198.18.0.1 [::] [::1] [::ffff:127.0.0.1]
[::127.0.0.1] [::ffff:0:127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::]
[2001:0:4136:e378:8000:63bf:3fff:fdd2] [fe80::5efe:7f00:1] [fd00:ec2::254] [ff02::1] [fec0::1]
169.254.170.2 169.254.0.23
"""


@pytest.mark.parametrize("literal", LITERALS.split())
async def test_a_literal_address_is_judged_without_a_resolver(literal: str) -> None:
    names = Names()
    with pytest.raises(PolicyDenied) as denied:
        await fetch(f"http://{literal}/", anything, by=client(names))
    assert denied.value.rule == "floor.address"
    assert names.asked == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["8.8.8.8", "::1"],
        ["2606:4700::1111", "10.0.0.1"],
        [*(f"8.8.{n}.1" for n in range(30)), "169.254.169.254"],
    ],
    ids=len,
)
async def test_one_denied_address_denies_the_host(addresses: list[str]) -> None:
    with pytest.raises(PolicyDenied):
        await fetch(f"http://{HOST}/", anything, by=client(Names(**{HOST: addresses})))


async def test_a_name_that_changes_between_the_check_and_the_connection_is_resolved_once() -> None:
    async with serve(answer()) as server:
        names = Names(**{HOST: [["127.0.0.1"], ["169.254.169.254"]]})
        result = await fetch(f"http://{HOST}:{server.port}/", by=client(names))
        assert result.status == 200
        assert names.asked == [HOST]
        # The next call resolves again: no answer, however long its time to live, outlives a call.
        with pytest.raises(PolicyDenied):
            await fetch(f"http://{HOST}:{server.port}/", by=client(names))
    assert server.connections == 1


async def test_a_redirect_to_the_same_name_is_resolved_and_judged_again() -> None:
    async with serve(answer(b"", "302 Found", Location="/again")) as server:
        names = Names(**{HOST: [["127.0.0.1"], ["10.0.0.1"]]})
        with pytest.raises(PolicyDenied):
            await fetch(f"http://{HOST}:{server.port}/", by=client(names))
    assert server.connections == 1


async def test_an_opened_network_opens_nothing_else() -> None:
    opened = (ip_network("127.0.0.0/30"),)
    with pytest.raises(PolicyDenied):
        await fetch(f"http://{HOST}/", allow(addresses=opened), by=client(Names(**{HOST: ["127.0.0.4"]})))


async def test_nothing_opens_the_metadata_service() -> None:
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    for literal in ("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "100.100.100.200"):
        with pytest.raises(PolicyDenied, match="metadata"):
            await fetch(f"http://{literal}/latest/", allow(literal, addresses=everything), by=client(Names()))


async def test_this_hosts_own_public_address_is_denied() -> None:
    by = client(Names(**{HOST: ["8.8.8.8"]}), own=["8.8.8.8"])
    with pytest.raises(PolicyDenied, match="address of this host"):
        await fetch(f"http://{HOST}/", anything, by=by)


async def test_the_servers_own_port_is_denied_also_at_an_opened_address() -> None:
    async with serve(answer()) as server, serve(answer()) as other:
        by = client(own_ports=lambda: (server.port,))
        with pytest.raises(PolicyDenied, match="port of this server"):
            await fetch(f"http://{HOST}:{server.port}/", by=by)
        assert (await fetch(f"http://{HOST}:{other.port}/", by=by)).status == 200
    assert server.connections == 0


async def test_no_address_is_an_answer_of_its_own() -> None:
    with pytest.raises(UpstreamUnreachable, match="no address") as failed:
        await fetch(f"http://{HOST}/", anything, by=client(Names()))
    assert failed.value.reason == "web.dns"
    with pytest.raises(UpstreamFailed, match="no address"):
        await fetch(f"http://{HOST}/", anything, by=client(Names(**{HOST: [[]]})))


async def test_nobody_listening_is_an_answer_of_its_own() -> None:
    async with serve(answer()) as server:
        pass
    with pytest.raises(UpstreamUnreachable, match="refused the connection") as failed:
        await fetch(f"http://{HOST}:{server.port}/")
    assert failed.value.retry_safe


def test_the_kernels_own_tables_name_this_hosts_addresses() -> None:
    assert ip_address("127.0.0.1") in OwnAddresses()()


def test_a_host_without_such_tables_has_no_own_addresses(tmp_path: Path) -> None:
    assert OwnAddresses(tmp_path)() == frozenset()


async def test_the_system_resolver_asks_for_exactly_the_name(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        return [
            (2, 1, 6, "", ("8.8.8.8", port)),
            (2, 1, 6, "", ("8.8.8.8", port)),
            (10, 1, 6, "", ("2a00::1", port, 0, 0)),
        ]

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver(hosts=tmp_path / "none")
    assert await resolver.resolve(HOST, 80) == [ip_address("8.8.8.8"), ip_address("2a00::1")]
    assert asked == [f"{HOST}."], "without the final dot a search domain could answer"


async def test_the_system_resolver_reads_the_hosts_file_first(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        f"# x\n10.9.8.7 other {HOST.upper()} # {HOST}\n::1 {HOST}\nnonsense {HOST}\n\n8.8.8.8 x{HOST}\n"
    )
    assert await SystemResolver(hosts=hosts).resolve(HOST, 80) == [ip_address("10.9.8.7"), ip_address("::1")]


async def test_a_name_that_does_not_exist_has_no_address(tmp_path: Path) -> None:
    with pytest.raises(UpstreamUnreachable) as failed:
        await SystemResolver(hosts=tmp_path / "none").resolve("does-not-exist.invalid", 80)
    assert failed.value.reason == "web.dns"


async def test_a_resolver_that_hangs_costs_a_bounded_number_of_threads(
    tmp_path: Path, monkeypatch: Any
) -> None:
    release = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        release.wait(10)
        return []

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver(timeout=0.02, lookups=2, hosts=tmp_path / "none")
    try:
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable, match="not resolved within"):
                await resolver.resolve(HOST, 80)
        with pytest.raises(Busy):
            await resolver.resolve(HOST, 80)
    finally:
        release.set()
    # Once they come back there is room again.
    with anyio.fail_after(5):
        while True:
            try:
                assert await resolver.resolve(HOST, 80) == []
                break
            except (Busy, UpstreamUnreachable):  # a thread may need its 20 ms to begin with
                await anyio.lowlevel.checkpoint()


async def test_as_many_names_are_looked_up_at_once_as_there_may_be_calls(
    tmp_path: Path, monkeypatch: Any
) -> None:
    all_of_them = threading.Barrier(AT_ONCE)

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        all_of_them.wait(10)
        return [(0, 0, 0, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", getaddrinfo)
    resolver, found = SystemResolver(hosts=tmp_path / "none"), []

    async def resolve(principal: str) -> None:
        found.append(await resolver.resolve(HOST, 80, principal))

    async with anyio.create_task_group() as tasks:
        for number in range(AT_ONCE):
            tasks.start_soon(resolve, f"p{number // EACH}")
    assert len(found) == AT_ONCE


async def test_one_principals_slow_names_hold_up_nobody_else(tmp_path: Path, monkeypatch: Any) -> None:
    release = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> Any:
        if host.startswith("slow"):
            release.wait(10)
        return [(0, 0, 0, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver(timeout=0.2, lookups=4, each=2, hosts=tmp_path / "none")
    try:
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable, match="not resolved within"):
                await resolver.resolve("slow.example.com", 80, "greedy")
        with pytest.raises(Busy):
            await resolver.resolve(HOST, 80, "greedy")
        assert await resolver.resolve(HOST, 80, "other") == [ip_address("192.0.2.1")]
    finally:
        release.set()
