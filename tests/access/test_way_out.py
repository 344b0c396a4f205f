# ruff: noqa: E501 - a program in a string keeps its own lines
"""E1 to E10 from an MCP client's end: programs in real sandboxes, a policy file, servers on loopback, and names
in the test's hands. What needs no sandbox to be looked at in full is in tests/access/egress, too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.access.egress.world import client_hello, records
from tests.access.http.lab import answer
from tests.access.way_out import PLAIN, SITE, Here, fresh, open_way_out

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def opened(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Here]:
    async with open_way_out(tmp_path_factory.mktemp("way-out")) as here:
        yield here


@pytest.fixture
async def here(opened: Here) -> AsyncIterator[Here]:
    async with fresh(opened) as here:
        yield here


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
