"""Time runs out, and many at once stay within their memory."""

from __future__ import annotations

import gc
import socket
import threading
import tracemalloc
from ipaddress import ip_address

import anyio
import pytest

from sandbox_server.access.egress import connection, dial, gateway
from sandbox_server.access.egress.models import Refused
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.web import EgressLimits
from tests.access.egress.world import ACCESS, SITE, World, echo, grant, rest, status

pytestmark = pytest.mark.anyio
TUNNELS = 1000


async def test_a_quiet_tunnel_is_closed(world: World) -> None:
    """E15."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.limits = EgressLimits(idle=0.1)
    async with world.tunnel(SITE, origin.port) as stream:
        assert await rest(stream) == b""
    assert world.records[0].reason == "limit: idle"


async def never_silent(stream: anyio.abc.ByteStream) -> None:
    while True:
        await stream.send(b"x")
        await stream.receive()


async def test_a_busy_tunnel_is_closed_after_all_its_time(world: World) -> None:
    """E15."""
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.limits = EgressLimits(idle=5, total=0.2)
    async with world.tunnel(SITE, origin.port) as stream:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await never_silent(stream)
    assert world.records[0].reason == "limit: total"


@pytest.mark.parametrize(
    "start", [b"", b"GET ht", b"CONNECT a.example.com:443 HTTP/1.1\r\nX: ", b"\5", b"\5\1\0\5"]
)
async def test_a_head_that_never_ends_is_not_waited_for(
    world: World, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E15: slow loris. It keeps on sending, but never enough."""
    from sandbox_server.access.egress import requests

    monkeypatch.setattr(requests, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    world.limits = EgressLimits(idle=0.3)
    async with world.client() as stream:
        if start:
            await stream.send(start)
        await rest(stream)
    assert world.gateway.connections == 0


class Quiet(anyio.abc.ByteStream):
    """A tunnel whose program says what it wants and then nothing, until it is closed."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self.told = b""
        self._closed = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._first:
            await self._closed.wait()
            raise anyio.EndOfStream
        data, self._first = self._first[:max_bytes], self._first[max_bytes:]
        return data

    async def send(self, item: bytes) -> None:
        self.told += item

    async def send_eof(self) -> None:
        self._closed.set()

    async def aclose(self) -> None:
        self._closed.set()


async def test_a_thousand_tunnels_take_little_memory_and_leave_none(world: World) -> None:
    """E15. The servers are streams in memory, so that only the proxy is measured."""
    world.allow(SITE, 443, opaque=True)

    async def dial(address: object, port: int) -> Quiet:
        return Quiet(b"x" * 100_000)

    world.gateway.dialler._dial = dial  # type: ignore[assignment]
    world.gateway._most_of_each = TUNNELS
    request = f"CONNECT {SITE}:443 HTTP/1.1\r\nHost: {SITE}:443\r\n\r\n".encode()

    async def round_of(number: int) -> int:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tunnels = [Quiet(request) for _ in range(number)]
        async with anyio.create_task_group() as tasks:
            for tunnel in tunnels:
                tasks.start_soon(world.outlet.serve, tunnel)
            await anyio.wait_all_tasks_blocked()
            assert world.gateway.connections == number
            assert all(len(tunnel.told) > 100_000 for tunnel in tunnels)
            for tunnel in tunnels:
                tunnel.told = b""
            gc.collect()
            most = tracemalloc.get_traced_memory()[0] - before
            tasks.cancel_scope.cancel()
        assert world.gateway.connections == 0
        return most

    tracemalloc.start()
    try:
        await round_of(50)
        world.records.clear()
        world.asked.clear()
        world.lookups.clear()
        start = tracemalloc.get_traced_memory()[0]
        most = await round_of(TUNNELS)
        assert most < TUNNELS * 64 * 1024
        world.records.clear()
        world.asked.clear()
        world.lookups.clear()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - start < 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_more_connections_than_the_server_takes_are_told_so_in_their_own_words(world: World) -> None:
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.gateway._most = 1
    async with world.tunnel(SITE, origin.port):
        for said in (
            b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
            b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            answer = await world.say(said)
            assert status(answer) == 503
            assert b"too many connections out of all sandboxes" in answer.split(b"\r\n")[0]
        assert await world.say(b"\5\1\0\5\1\0\3\1x\1\xbb") == b"\5\0\5\1\0\1" + bytes(6)
    turned_away = [record for record in world.records if record.reason.startswith("too many")]
    assert [(record.verdict, record.host) for record in turned_away] == [("failed", "")] * 3
    assert [each.host for each in world.asked] == [SITE]
    assert status(await world.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == 400
    assert world.gateway.outlet(ACCESS).tunnels == world.limits.tunnels


async def test_who_says_nothing_is_turned_away_without_a_word_and_so_are_those_beyond_a_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "TURN_AWAY_SECONDS", 0.1)
    monkeypatch.setattr(gateway, "MOST_TURNED_AWAY", 1)
    world.gateway._most = 0
    request = b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"
    async with world.client() as silent:
        await anyio.wait_all_tasks_blocked()
        assert await world.say(request) == b""
        assert await rest(silent) == b""
    assert status(await world.say(request)) == 503
    assert world.gateway._turning_away == 0


async def test_one_principal_leaves_connections_for_others(world: World) -> None:
    origin = await world.origin(handler=echo)
    world.allow(SITE, origin.port, opaque=True)
    world.gateway._most_of_each = 1
    again, other = (world.gateway.outlet(EgressAccess("web", name)) for name in (ACCESS.principal, "other"))
    wrong = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with world.tunnel(SITE, origin.port):
        assert status(await world.say(wrong, again)) == 503
        assert status(await world.say(wrong, other)) == 400
    assert [record.principal for record in world.records if "of one principal" in record.reason] == [
        ACCESS.principal
    ]
    assert status(await world.say(wrong, again)) == 400
    assert not world.gateway._of_each


async def test_one_principals_slow_names_hold_up_nobody_elses_lookups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging = anyio.Event()

    async def resolve(host: str, port: int, principal: str) -> list[IPAddress]:
        if host.startswith("slow"):
            await hanging.wait()
        return [ip_address("10.0.0.1")]

    dialler = dial.Dialler(resolve)

    async def connect(host: str, principal: str) -> None:
        with pytest.raises(Refused, match=r"10\.0\.0\.1"):
            await dialler.connect(host, 443, grant(), principal)

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(connect, f"slow{number}.example.com", "greedy")
        await anyio.wait_all_tasks_blocked()
        await connect(SITE, "other")
        hanging.set()
    assert not dialler._own_turns


async def test_a_resolver_that_hangs_costs_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lookups that were given up go on in their threads: programs must not start more and more of them."""
    release, asked = threading.Event(), []

    def getaddrinfo(*host: object, **_: object) -> list[object]:
        asked.append(host)
        release.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(dial, "RESOLVE_SECONDS", 0.02)
    dialler = dial.Dialler()
    try:
        for _ in range(20):
            with pytest.raises(Refused, match="could not be resolved"):
                await dialler.connect(SITE, 443, grant())
        assert len(asked) == 8
    finally:
        release.set()


async def test_many_lookups_at_once_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("10.0.0.1", 443))])
    dialler, denied = dial.Dialler(), []

    async def connect(number: int) -> None:
        with pytest.raises(Refused) as refused:
            await dialler.connect(f"n{number}.example.com", 443, grant())
        denied.append(refused.value.rule)

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(connect, number)
    assert denied == ["floor.address"] * 100


async def test_a_connection_that_asks_for_nothing_is_reported_with_what_it_sent(world: World) -> None:
    async with world.client() as stream:
        await stream.send_eof()
        assert await rest(stream) == b""
    (record,) = world.records
    assert (record.verdict, record.kind, record.reason) == ("failed", "none", "nothing was asked for")
    assert (record.host, record.bytes_out, record.bytes_in) == ("", 0, 0)
