# ruff: noqa: E501 - a program in a string keeps its own lines
"""Programs with a way out that look for another one. Numbers: E1 to E18 of README.md; those that need no
sandbox are in tests/access/egress."""

from __future__ import annotations

from uuid import uuid4

import anyio
import pytest

from sandbox_server.guards.web import EgressLimits
from tests.access.egress.world import SITE, echo
from tests.hostile.egress_place import Egress

FETCH = """
import json, os, socket, sys, time, urllib.error, urllib.request
from urllib.parse import urlsplit
def proxy():
    return urlsplit(os.environ["HTTP_PROXY"]).hostname, urlsplit(os.environ["HTTP_PROXY"]).port
def fetch(url, data=None):
    try:
        with urllib.request.urlopen(url, data, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError as error:
        return "error", str(error)
def talk(data):
    with socket.create_connection(proxy(), timeout=5) as s:
        s.sendall(data)
        return b"".join(iter(lambda: s.recv(65536), b""))
"""


async def answers(egress: Egress, code: str, language: str = "python", **options: object) -> list[str]:
    result = await egress.lab.run(FETCH + code, language, bare=True, **{"wall": 20.0, **options})  # type: ignore[arg-type]
    assert result.outcome == "ok", result.stderr.text
    return result.stdout.text.splitlines()


async def test_without_a_grant_there_is_no_way_out_at_all(egress: Egress) -> None:
    """E1: no variable, no listener, no route."""
    code = """
print([name for name in os.environ if "proxy" in name.lower()])
print(open("/proc/net/tcp").read().count("\\n"))
for address in ("127.0.0.1", 3128), ("1.1.1.1", 443):
    try: socket.create_connection(address, timeout=1)
    except OSError as error: print(type(error).__name__)
"""
    assert await answers(egress, code, "python-inside") == ["[]", "1", "ConnectionRefusedError", "OSError"]


async def test_without_a_rule_nothing_is_reached_and_the_program_is_told_why(egress: Egress) -> None:
    """E1, E2, E17."""
    code = """
print(*fetch("http://site.example.com/"))
print(*fetch("https://site.example.com/"))
"""
    plain, tls = await answers(egress, code)
    assert plain.startswith('403 {"error": "egress_denied", "rule": "default"')
    assert "egress policy (default): no rule allows site.example.com:443" in tls
    assert egress.world.lookups == []
    await egress.lab.until(lambda: len(egress.world.records) == 2)
    assert [record.verdict for record in egress.world.records] == ["denied", "denied"]


async def test_allowed_hosts_are_reached_over_http_and_tls(egress: Egress) -> None:
    plain = await egress.world.origin()
    secure = await egress.world.origin(tls=SITE)
    ended = await egress.world.origin(tls=SITE)
    egress.world.allow(SITE, plain.port)
    egress.world.allow(SITE, secure.port)
    egress.world.allow(SITE, ended.port, terminate=True)
    code = f"""
print(*fetch("http://{SITE}:{plain.port}/"))
print(*fetch("https://{SITE}:{secure.port}/"))
print(*fetch("https://{SITE}:{ended.port}/"))
print(*fetch("https://{SITE}:{ended.port}/secret")[:1])
"""
    assert await answers(egress, code) == ["200 hi", "200 hi", "200 hi", "403"]
    await egress.lab.until(lambda: len(egress.world.records) > 3)
    assert {record.principal for record in egress.world.records} == {"anonymous"}


async def test_another_port_is_denied(egress: Egress) -> None:
    """E3."""
    egress.world.allow(SITE, 443)
    [told] = await answers(egress, f'print(talk(b"CONNECT {SITE}:22 HTTP/1.0\\r\\n\\r\\n")[:12])')
    assert told == "b'HTTP/1.1 403'"


async def test_round_the_proxy_there_is_no_route(egress: Egress) -> None:
    """E4, E13: TCP, UDP, IPv6 and ICMP alike."""
    code = """
for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, ("93.184.216.34", 443)), (socket.AF_INET, socket.SOCK_DGRAM, ("1.1.1.1", 443)),
    (socket.AF_INET6, socket.SOCK_STREAM, ("2606:4700::1111", 443)), (socket.AF_INET6, socket.SOCK_DGRAM, ("2606:4700::1111", 443)),
):
    with socket.socket(family, kind) as s:
        s.settimeout(1)
        try: print(s.connect(address))
        except OSError as error: print(error.errno)
try: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); print("raw")
except OSError as error: print("refused")
print([line.split(":")[0].strip() for line in open("/proc/net/dev")][2:])
print(talk(b"\\5\\1\\0\\5\\3\\0\\1" + bytes(6)))
print(talk(b"CONNECT [::1]:443 HTTP/1.0\\r\\n\\r\\n")[:12])
"""
    *routes, raw, interfaces, udp, literal = await answers(egress, code)
    assert set(routes) <= {"101", "99"}
    assert (raw, interfaces) == ("refused", "['lo']")
    assert udp.startswith("b'\\x05\\x00\\x05\\x07")
    assert literal == "b'HTTP/1.1 403'"


async def test_a_relay_inside_gets_no_further(egress: Egress) -> None:
    """E5."""
    code = """
import threading
server = socket.create_server(("127.0.0.1", 9999))
def relay():
    inner, _ = server.accept()
    outer = socket.create_connection(proxy())
    outer.sendall(inner.recv(65536))
    inner.sendall(outer.recv(65536))
    inner.close()
threading.Thread(target=relay, daemon=True).start()
with socket.create_connection(("127.0.0.1", 9999)) as s:
    s.sendall(b"CONNECT evil.example.com:443 HTTP/1.0\\r\\n\\r\\n")
    print(s.recv(65536)[:12])
"""
    assert await answers(egress, code) == ["b'HTTP/1.1 403'"]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254"])
async def test_an_allowed_name_at_a_forbidden_address_is_denied(egress: Egress, address: str) -> None:
    """E8."""
    egress.world.allow(SITE, 80, addresses=())
    egress.world.names[SITE] = [[address]]
    [told] = await answers(egress, f'print(*fetch("http://{SITE}/"))')
    assert told.startswith('403 {"error": "egress_denied", "rule": "floor.address"')
    assert egress.world.dialled == []


async def test_an_upload_ends_at_its_cap(egress: Egress) -> None:
    """E16: over all connections of the sandbox, in a session over all its runs."""
    origin = await egress.world.origin()
    egress.world.allow(SITE, origin.port)
    egress.world.limits = EgressLimits(bytes_out=200_000)
    connection = uuid4().hex
    code = f'print(fetch("http://{SITE}:{origin.port}/", b"x" * 80_000)[0])'
    said = [await answers(egress, code, connection=connection) for _ in range(4)]
    assert said[:2] == [["200"], ["200"]]
    assert said[2][0] in ("error", "403")
    assert said[3] == ["403"]
    assert sum(len(data) for data in origin.seen) < 200_000
    await egress.lab.manager.close_connection(connection)


async def test_what_a_run_opened_ends_with_it(egress: Egress) -> None:
    """Its tunnels are closed, its listener too, and the next run has its own."""
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    connection = uuid4().hex
    hold = f"""
held = [socket.create_connection(proxy()) for _ in range(5)]
for s in held:
    s.sendall(b"CONNECT {SITE}:{origin.port} HTTP/1.0\\r\\n\\r\\n")
    print(s.recv(100)[:12])
    s.sendall(b"ping"); s.recv(4)
where = proxy()
"""
    assert await answers(egress, hold, connection=connection) == ["b'HTTP/1.1 200'"] * 5
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)
    again = """
ends = []
for s in held:
    try: ends.append(s.recv(10))
    except OSError as error: ends.append(b"")
print(ends == [b""] * 5, proxy() == where)
with socket.create_connection(proxy()) as s: s.sendall(b"junk\\r\\n\\r\\n"); print(s.recv(12))
"""
    assert await answers(egress, again, connection=connection) == ["True True", "b'HTTP/1.1 400'"]
    await egress.lab.manager.close_connection(connection)


async def test_ten_thousand_connections_harm_nobody(egress: Egress) -> None:
    """E15: no more than the profile's number exist at once; the next run and other sandboxes are served."""
    origin = await egress.world.origin()
    egress.world.allow(SITE, origin.port)
    egress.world.limits = EgressLimits(tunnels=8)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, egress.world.gateway.connections)
            await anyio.sleep(0.005)

    flood = """
import resource
held = []; made = 0
end = time.monotonic() + 4
while made < 10_000 and time.monotonic() < end:
    s = socket.socket(); s.setblocking(False)
    try: s.connect(proxy())
    except BlockingIOError: pass
    except OSError: time.sleep(0.001); continue
    made += 1
    held.append(s)
    if len(held) > 150: held.pop(0).close()
print(made > 500)
"""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        async with anyio.create_task_group() as both:
            flooded: list[str] = []

            async def run_flood() -> None:
                flooded.extend(await answers(egress, flood))

            both.start_soon(run_flood)
            for _ in range(3):
                assert await answers(egress, f'print(*fetch("http://{SITE}:{origin.port}/"))') == ["200 hi"]
        tasks.cancel_scope.cancel()
    assert flooded == ["True"]
    assert most <= 2 * 8
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)


async def test_a_connection_more_than_the_profile_has_is_refused_in_words(egress: Egress) -> None:
    """E15: not at once, for one of the others may end; then in HTTP's words or in those of SOCKS."""
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    egress.world.limits = EgressLimits(tunnels=3)
    code = f"""
import threading
held = [socket.create_connection(proxy()) for _ in range(3)]
for s in held:
    s.sendall(b"CONNECT {SITE}:{origin.port} HTTP/1.0\\r\\n\\r\\n"); s.recv(12)
threading.Timer(0.5, lambda: held.pop().close()).start()
print(talk(b"CONNECT nowhere.example.com:443 HTTP/1.0\\r\\n\\r\\n")[:12].decode())
held.append(socket.create_connection(proxy()))
held[-1].sendall(b"CONNECT {SITE}:{origin.port} HTTP/1.0\\r\\n\\r\\n"); held[-1].recv(12)
begin = time.monotonic()
print(*fetch("https://{SITE}/"))
print(fetch("http://{SITE}/"))
print(4 < time.monotonic() - begin < 10)
with socket.create_connection(proxy()) as s:
    s.sendall(b"\\5\\1\\0"); print(s.recv(2))
    s.sendall(b"\\5\\1\\0\\3\\1x\\1\\xbb"); print(s.recv(10)[:2])
held.pop().close()
print(talk(b"CONNECT nowhere.example.com:443 HTTP/1.0\\r\\n\\r\\n")[:12].decode())
"""
    first, https, http, late, greeting, reply, after = await answers(egress, code)
    assert (first, after) == ("HTTP/1.1 403", "HTTP/1.1 403")
    assert "503 Too many connections (sandbox egress): this sandbox has 3 connections open" in https
    assert http.startswith('(503, \'{"error": "egress_failed", "rule": "limit.tunnels"')
    assert (late, greeting, reply) == ("True", "b'\\x05\\x00'", "b'\\x05\\x01'")


async def test_a_program_that_reads_nothing_holds_up_its_own_tunnel_only(egress: Egress) -> None:
    async def pour(stream: anyio.abc.ByteStream) -> None:
        while True:
            await stream.send(b"x" * 65536)

    poured = await egress.world.origin(handler=pour)
    egress.world.allow(SITE, poured.port, opaque=True)
    origin = await egress.world.origin()
    egress.world.allow(SITE, origin.port)
    code = f"""
s = socket.create_connection(proxy())
s.sendall(b"CONNECT {SITE}:{poured.port} HTTP/1.0\\r\\n\\r\\n")
print(s.recv(12))
print(*fetch("http://{SITE}:{origin.port}/"))
"""
    assert await answers(egress, code) == ["b'HTTP/1.1 200'", "200 hi"]
    records = egress.world.records
    await egress.lab.until(lambda: any(record.port == poured.port for record in records))
    assert [record.bytes_in < 16 * 1024 * 1024 for record in records if record.port == poured.port] == [True]


@pytest.mark.parametrize("language", ["bash", "javascript"])
async def test_other_languages_find_the_way_out_too(egress: Egress, language: str) -> None:
    origin = await egress.world.origin()
    egress.world.allow(SITE, origin.port)
    code = {
        "bash": f"""exec 9<>/dev/tcp/127.0.0.1/${{HTTP_PROXY##*:}}
printf 'GET http://{SITE}:{origin.port}/ HTTP/1.1\\r\\nHost: {SITE}:{origin.port}\\r\\nConnection: close\\r\\n\\r\\n' >&9
head -c 12 <&9""",
        "javascript": f"""import http from 'http';
const [host, port] = process.env.HTTP_PROXY.slice(7).split(':');
http.get({{host, port, path: 'http://{SITE}:{origin.port}/', headers: {{Host: '{SITE}:{origin.port}'}}}}, (answer) => {{
  console.log('HTTP/1.1 ' + answer.statusCode); answer.resume(); }});""",
    }[language]
    result = await egress.lab.run(code, language, wall=10)
    assert result.stdout.text.strip() == "HTTP/1.1 200", result.stderr.text
