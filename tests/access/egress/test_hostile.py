"""Programs and servers that bend what they say to get a secret or another request out of the proxy."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import ByteStream

from sandbox_server import wire
from sandbox_server.execution.tunnels import Tunnel
from sandbox_server.guards.web import EgressLimits
from tests.access.egress.world import SITE, World, echo, rest, status, until

SECRET = "s3cr3t-value"


@pytest.mark.parametrize(
    "malformed",
    [
        b"HTTP/1.1 200 OK\r\nX Echo: %s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Echo\xff: %s\r\n\r\n",
        b"HTTP/1.1 2xx %s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
    ],
)
async def test_a_broken_answer_is_not_quoted(world: World, malformed: bytes) -> None:
    """It may echo the secret, and what is quoted was not searched for it."""
    origin = await world.origin(answer=malformed % SECRET.encode())
    world.secrets["token"] = SECRET
    world.allow(SITE, origin.port, inject={"Authorization": "token"})
    answer = await world.get(f"http://{SITE}:{origin.port}/")
    assert len(origin.seen) == 1
    assert SECRET.encode() not in answer
    assert SECRET not in repr(world.records)


async def test_a_broken_request_is_not_quoted_in_its_record(world: World) -> None:
    private = "what-the-program-sent"
    answer = await world.say(f"GET http://{SITE}/ HTTP/1.1\r\nX Y: {private}\r\n\r\n".encode())
    assert status(answer) == 400
    assert world.records[0].reason.startswith("a broken request: illegal header line")
    assert private not in repr(world.records)


@pytest.mark.parametrize("hello", ["connect", "socks"])
async def test_a_server_is_let_go_when_the_program_can_not_be_told_of_it(world: World, hello: str) -> None:
    """Otherwise each try would leave a connection behind, for there is always room for one more byte."""
    gone = anyio.Event()

    async def wait_for_the_end(stream: ByteStream) -> None:
        try:
            await echo(stream)
        finally:
            gone.set()

    origin = await world.origin(handler=wait_for_the_end)
    world.allow(SITE, origin.port)
    world.limits = EgressLimits(bytes_in=5)
    outlet = world.gateway.outlet(world.outlet._access)  # type: ignore[attr-defined]
    if hello == "connect":
        said = f"CONNECT {SITE}:{origin.port} HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode()
    else:
        host = SITE.encode()
        said = b"\5\1\0\5\1\0\3" + bytes((len(host),)) + host + origin.port.to_bytes(2, "big")
    async with world.client(outlet) as stream:
        await stream.send(said)
        await rest(stream)
    with anyio.fail_after(5):
        await gone.wait()
    assert world.records[-1].reason == "limit: bytes_in"


async def test_a_body_that_breaks_off_is_told_in_the_record(world: World) -> None:
    origin = await world.origin()
    world.allow(SITE, origin.port)
    head = f"POST http://{SITE}:{origin.port}/ HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n"
    assert await world.say(f"{head}Transfer-Encoding: chunked\r\n\r\nnonsense\r\n".encode()) == b""
    (record,) = world.records
    assert (record.verdict, record.reason) == ("allowed", "what came broke off or was no HTTP")


async def sink(frame: bytes) -> None:
    """A runner that takes everything and gives no credit."""


@pytest.mark.parametrize(
    "said",
    [
        f"CONNECT {SITE}:443 HTTP/1.1\r\nHost: {SITE}:443\r\n\r\n".encode(),
        f"GET http://{SITE}/ HTTP/1.1\r\nHost: {SITE}\r\n\r\n".encode(),
        b"\5\1\0\5\1\0\3" + bytes((len(SITE),)) + SITE.encode() + b"\1\xbb",
        b"GET / HTTP/1.1\r\nX Y: broken\r\n\r\n",
    ],
    ids=["connect", "http", "socks", "broken"],
)
async def test_what_was_denied_is_on_record_as_denied_though_the_program_does_not_wait_for_the_answer(
    world: World, said: bytes
) -> None:
    tunnel = Tunnel(wire.FIRST_TUNNEL, sink)
    spent = 2 if said.startswith(b"\5") else 0  # the answer to a greeting gets through, the refusal does not
    await tunnel.send(bytes(wire.TUNNEL_WINDOW - spent))

    async def serve() -> None:
        with tunnel.scope:
            await world.outlet.serve(tunnel)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        tunnel.take(wire.Frame(wire.Type.DATA, tunnel.number, said))
        await anyio.wait_all_tasks_blocked()
        tunnel.take(wire.Frame(wire.Type.CLOSE, tunnel.number, b"{}"))
    (record,) = world.records
    assert record.verdict == "denied"
    assert record.rule in ("default", "floor.http")
    assert record.reason


@pytest.mark.parametrize(
    "header",
    ["X-HTTP-Method-Override: DELETE", "X_HTTP_Method_Override: DELETE", "X-Original-URL: /secret"],
)
async def test_headers_that_make_it_another_request_are_refused(world: World, header: str) -> None:
    origin = await world.origin()
    world.allow(SITE, origin.port)
    answer = await world.get(f"http://{SITE}:{origin.port}/", header)
    assert status(answer) == 400
    assert origin.connections == 0


async def test_a_terminated_hosts_secret_is_not_sent_in_the_clear(world: World) -> None:
    """`http://host:443` is the program's choice, and everybody on the way would read the secret."""
    origin = await world.origin()
    world.secrets["token"] = SECRET
    world.allow(SITE, origin.port, terminate=True, inject={"Authorization": "token"})
    assert status(await world.get(f"http://{SITE}:{origin.port}/")) == 403
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(f"GET / HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        assert status(await rest(stream)) == 403
    assert origin.connections == 0


async def test_connect_within_a_tunnel_is_refused(world: World) -> None:
    origin = await world.origin()
    world.allow(SITE, origin.port)
    async with world.tunnel(SITE, origin.port) as stream:
        await stream.send(f"CONNECT / HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n\r\n".encode())
        answer = await until(stream, b"\r\n")
    assert status(answer) == 400
    assert b"".join(origin.seen) == b""
