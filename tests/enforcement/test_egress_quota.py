"""`egress_bytes` holds while connections run: not one, nor many at once, send more than is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from sandbox_server.enforcement.egress import EgressRules
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.policy.decision import Principal
from tests.access.egress.world import echo, rest, until
from tests.enforcement.place import Place, place

pytestmark = pytest.mark.anyio

KIB = 1024
PIECE = 8 * KIB
WHO = Principal()
ACCESS = EgressAccess("site", WHO.key, WHO)
POLICY = """
roles:
  basic:
    tools: {{allow: [code_execution]}}
    code: {{egress: site, languages: {{python: {{}}}}}}
    quotas: {{egress_bytes: {quota}}}
egress:
  profiles:
    site: {{allow: [{{hosts: ["127.0.0.1"], ports: [{port}], opaque: true, addresses: ["127.0.0.1/32"]}}]}}
"""


@dataclass
class Ports:
    server: int
    proxy: int


@asynccontextmanager
async def out(directory: Path, quota: str) -> AsyncIterator[tuple[Place, Ports]]:
    """A server, and the real gateway by the real gate, on loopback as it is in a sandbox."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as server,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as proxy,
    ):
        ports = Ports(server.extra(SocketAttribute.local_port), proxy.extra(SocketAttribute.local_port))
        async with (
            place(directory, POLICY.format(quota=quota, port=ports.server)) as here,
            anyio.create_task_group() as tasks,
        ):
            outlet = here.enforced.outside.gateway.outlet(ACCESS)

            async def serve(stream: ByteStream) -> None:
                async with stream:
                    await outlet.serve(stream)

            tasks.start_soon(server.serve, echoes)
            tasks.start_soon(proxy.serve, serve)
            yield here, ports
            tasks.cancel_scope.cancel()


async def echoes(stream: ByteStream) -> None:
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await echo(stream)


async def upload(ports: Ports, pieces: int, came: list[int]) -> None:
    """Piece after piece, each once the one before has come back. `came`: how much each has."""
    async with await anyio.connect_tcp("127.0.0.1", ports.proxy) as stream:
        await stream.send(connect(ports))
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            for _ in range(pieces):
                await stream.send(b"x" * PIECE)
                back = 0
                while back < PIECE:
                    back += len(await stream.receive())
                came.append(back)
            await stream.send_eof()
            await rest(stream)


def connect(ports: Ports) -> bytes:
    where = f"127.0.0.1:{ports.server}"
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()


async def test_connections_at_once_are_cut_when_the_quota_is_gone_and_the_log_says_so(tmp_path: Path) -> None:
    came: list[int] = []
    async with out(tmp_path, "256KiB/day") as (here, ports):
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(upload, ports, 8, came)
        told = await here.record("connection")
    # The heads of eight CONNECTs are in it, and the piece of each that was too much is not.
    assert 256 * KIB - 9 * PIECE <= sum(came) < 256 * KIB
    assert [each["reason"] for each in told] == ["limit: roles.basic.quotas.egress_bytes"] * 8


async def test_what_fits_is_not_cut(tmp_path: Path) -> None:
    came: list[int] = []
    async with out(tmp_path, "512KiB/day") as (here, ports):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(upload, ports, 12, came)
        assert sum(came) == 4 * 12 * PIECE
        assert {each["reason"] for each in await here.record("connection")} == {""}


async def test_without_a_byte_left_a_program_is_told_that_the_quota_is_used_up(tmp_path: Path) -> None:
    async with out(tmp_path, "64KiB/day") as (here, ports):
        await upload(ports, 16, [])
        async with await anyio.connect_tcp("127.0.0.1", ports.proxy) as stream:
            await stream.send(connect(ports))
            answer = await rest(stream)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"roles.basic.quotas.egress_bytes" in answer
        assert b"used up" in answer
        # The first may be told after the second: its end is heard of when its program has long gone.
        assert "deny" in [each["decision"] for each in await here.record("connection")]


async def test_who_has_several_profiles_has_the_fastest_rate_of_them(tmp_path: Path) -> None:
    policy = """
roles:
  basic: {tools: {allow: [code_execution]}, code: {languages: {python: {}}}}
egress:
  profiles:
    slow: {allow: ["a.example:443"], rate: 100/min, burst: 7}
    fast: {allow: ["b.example:443"], rate: 2/s, burst: 5}
deployment: {warm: 0}
"""
    async with place(tmp_path, policy) as here:
        rules = EgressRules(here.enforced.gate)
        found = [rules.limits(name) for name in ("slow", "fast", "slow+fast")]
    assert [(each.rate, each.burst) for each in found] == [((100, 60), 7), ((2, 1), 5), ((2, 1), 7)]
