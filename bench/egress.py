"""What the way out costs: connections and downloads through the tunnel beside the sandbox's own loopback, in
turns and within one run; and the server's memory for a thousand tunnels."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network

import anyio
import anyio.lowlevel
import psutil
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from bench.context import Bench
from bench.report import Row
from bench.stats import Samples
from sandbox_server.access.egress import Connect, Dialler, Gateway
from sandbox_server.access.egress.gateway import MOST_OF_EACH
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile
from sandbox_server.execution.api import Caller
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunLimits, RunRequest
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.guards.web import EgressGrant, EgressLimits
from sandbox_server.images.recipes import tag_of

HOST = "origin.example.test"
TUNNELS = 1000
WARM_UP = 20
DOWNLOAD = 64 * MIB
TUNNEL_KIB = 64.0
_GRANT = EgressGrant("bench", (ip_network("127.0.0.1/32"),), opaque=True)
_LIMITS = EgressLimits(bytes_out=1 << 50, bytes_in=1 << 50, tunnels=64)
_PIECE = bytes(65536)
_HELLO = b"CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n"

# Both ends of "direct" are in the sandbox: what a connection costs without any way out.
_PROGRAM = """
import json, os, socket, sys, threading, time
from urllib.parse import urlsplit
outer, rounds, size = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
where = urlsplit(os.environ["HTTP_PROXY"])
server = socket.create_server(("127.0.0.1", 0))
piece = bytes(65536)
def serve(s):
    with s:
        wanted = int.from_bytes(s.recv(8), "big")
        while wanted > 0:
            s.sendall(piece[:wanted]); wanted -= len(piece)
def accept():
    while True: threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
def direct():
    return socket.create_connection(server.getsockname())
def tunnel():
    s = socket.create_connection((where.hostname, where.port))
    host = f"origin.example.test:{outer}"
    s.sendall(f"CONNECT {host} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode())
    said = b""
    while not said.endswith(b"\\r\\n\\r\\n"): said += s.recv(1)
    assert b" 200 " in said, said
    return s
def timed(connect, wanted):
    begin = time.perf_counter()
    with connect() as s:
        s.sendall(wanted.to_bytes(8, "big"))
        left = wanted
        while left: left -= len(s.recv(65536))
    return time.perf_counter() - begin
for _ in range(5): timed(direct, 1), timed(tunnel, 1)
short, long = {"direct": [], "tunnel": []}, {"direct": [], "tunnel": []}
for _ in range(rounds):
    short["direct"].append(timed(direct, 1)); short["tunnel"].append(timed(tunnel, 1))
for _ in range(3):
    long["direct"].append(timed(direct, size)); long["tunnel"].append(timed(tunnel, size))
print(json.dumps([short, long]))
"""


class Loopback(Dialler):
    """Every name is this host."""

    def __init__(self) -> None:
        super().__init__(self._here, own=lambda: (), listening=lambda _, port: False)

    async def _here(self, host: str, port: int, principal: str) -> Sequence[IPAddress]:
        return [ip_address("127.0.0.1")]


def judge(connect: Connect) -> EgressGrant:
    return _GRANT


async def measure(bench: Bench) -> None:
    bench.say("connections and a download out of a sandbox")
    gateway = Gateway(judge, lambda profile: _LIMITS, dialler=Loopback())
    short, long = await _beside_loopback(bench, gateway)
    direct, tunnel = (Samples(list(short[name])) for name in ("direct", "tunnel"))
    slow, fast = min(long["tunnel"]), min(long["direct"])
    each = await _memory_of_tunnels(gateway)
    bench.rows += [
        Row.of("a connection and a byte, loopback in the sandbox", direct),
        Row.of(
            "the same by the way out",
            tunnel,
            note=f"{tunnel.p50 / direct.p50:.1f}x, {1000 * (tunnel.p50 - direct.p50):+.2f} ms",
        ),
        Row("a 64 MiB download, loopback in the sandbox", "MB/s", DOWNLOAD / fast / 1e6, samples=3),
        Row("the same by the way out", "MB/s", DOWNLOAD / slow / 1e6, samples=3, note=f"{fast / slow:.2f}x"),
        Row(
            f"server RSS for {TUNNELS} idle tunnels",
            "MiB",
            each * TUNNELS / MIB,
            samples=TUNNELS,
            target=f"<= {TUNNEL_KIB:g} KiB each",
            ratio=each / 1024,
            bound=TUNNEL_KIB,
            note=f"{each / 1024:.1f} KiB each, without the sockets' own buffers",
        ),
    ]


async def _beside_loopback(bench: Bench, gateway: Gateway) -> tuple[dict[str, list[float]], ...]:
    engine = DockerEngine(Owner(bench.raw.instance, "egress"), tag_of)
    limits = RunLimits(wall=120.0, cpu=120.0)
    grants = {"python": Grant(LANGUAGES["python"], Profile("python"), limits, limits, egress="bench")}
    async with _origin() as port, Manager(engine, grants, Sizing(warm=1), egress=gateway) as manager:
        arguments = (str(port), str(bench.times(200, 20)), str(DOWNLOAD))
        asked = RunRequest("python", _PROGRAM, arguments, limits=limits)
        result = await manager.run(asked, caller=Caller(), on_event=lambda event: None)
        if result.outcome != "ok":
            raise RuntimeError(f"the program failed: {result.stderr.text}")
        short, long = json.loads(result.stdout.text)
        return short, long


@asynccontextmanager
async def _origin() -> AsyncIterator[int]:
    """Sends as many bytes as it is asked for."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):  # one that only connects
                wanted = int.from_bytes(await stream.receive(8), "big")
                while wanted > 0:
                    await stream.send(_PIECE[:wanted])
                    wanted -= len(_PIECE)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


class _Idle(ByteStream):
    """A program's end of a tunnel: it asks, and then says nothing more."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    async def receive(self, max_bytes: int = 65536) -> bytes:
        request, self._request = self._request, b""
        if not request:
            await anyio.sleep_forever()
        return request

    async def send(self, item: bytes) -> None:
        """Nobody listens."""

    async def send_eof(self) -> None:
        """Nobody listens."""

    async def aclose(self) -> None:
        """Nothing is held."""


async def _memory_of_tunnels(gateway: Gateway) -> float:
    """Bytes for each, of this process: the proxy and its socket's objects."""
    most = MOST_OF_EACH  # of one principal: there are several, then
    outlets = [gateway.outlet(EgressAccess("bench", f"bench{each}")) for each in range(TUNNELS // most + 2)]
    process = psutil.Process()
    async with _origin() as port:
        request = _HELLO % (HOST.encode(), port, HOST.encode(), port)
        async with anyio.create_task_group() as tasks:
            before = 0
            for number in range(TUNNELS + WARM_UP):
                if number == WARM_UP:  # the first ones pay for what is made once
                    before = process.memory_info().rss
                tasks.start_soon(outlets[number // most].serve, _Idle(request))
                while gateway.connections <= number:
                    await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            grown = process.memory_info().rss - before
            tasks.cancel_scope.cancel()
    return max(0.0, grown / TUNNELS)
