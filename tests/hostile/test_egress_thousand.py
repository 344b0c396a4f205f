"""E15: a thousand tunnels at once, out of real containers, and what is left of them: nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
import psutil
import pytest
from anyio.abc import ByteStream

from sandbox_server.access.egress.gateway import MOST_OF_EACH
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.models import Output, RunEvent, RunLimits, RunRequest
from sandbox_server.guards.web import MOST_TUNNELS, EgressLimits
from tests.access.egress.world import SITE, Origin
from tests.hostile.egress_place import Egress, open_egress

pytestmark = pytest.mark.anyio

PRINCIPALS, EACH = 4, 4
TUNNELS = MOST_TUNNELS - 1
"""Of a sandbox; one more is for another use."""
ALL = PRINCIPALS * EACH * TUNNELS
PIECE = 4096
KIB, MIB = 1024, 1024**2
LEFT = MOST_OF_EACH - EACH * TUNNELS
"""Of what one principal may have at once."""
TOO_MANY = "HTTP/1.1 503 Busy (sandbox egress): too many connections out of the sandboxes of one principal"

CLIENT = """python3 -u - <<'END'
import hashlib, json, os, socket
host, port = os.environ["HTTP_PROXY"].rpartition("/")[2].split(":")
def connect():
    s = socket.create_connection((host, int(port)), 30)
    s.sendall(b"CONNECT %(where)s HTTP/1.1\\r\\nHost: %(where)s\\r\\n\\r\\n")
    head = b""
    while not head.endswith(b"\\r\\n\\r\\n"):
        head += s.recv(1)
    return s, head.split(b"\\r\\n")[0].decode()
def piece(of):
    return hashlib.shake_128(repr(("%(name)s", of)).encode()).digest(%(piece)d)
def right(s, of):
    s.sendall(piece(of))
    back = b""
    while len(back) < %(piece)d:
        back += s.recv(%(piece)d - len(back))
    return back == piece(of)
made = [connect() for _ in range(%(count)d)]
open_ = [s for s, line in made if line.startswith("HTTP/1.1 200 ")]
refused = sorted({line for _, line in made if not line.startswith("HTTP/1.1 200 ")})
first = sum(right(s, (n, 1)) for n, s in enumerate(open_))
print(json.dumps([len(open_), first, refused]))
second = 0
for n, s in enumerate(open_):
    s.settimeout(60)
    second += s.recv(1) == b"!" and right(s, (n, 2))
print(json.dumps(second))
END"""


@dataclass
class Hold:
    """A server that gives back what it gets; between two pieces it waits until all are let go on."""

    go: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, stream: ByteStream) -> None:
        await self._echo(stream)
        await self.go.wait()
        await stream.send(b"!")
        await self._echo(stream)
        await stream.receive()

    async def _echo(self, stream: ByteStream) -> None:
        left = PIECE
        while left:
            data = await stream.receive(left)
            await stream.send(data)
            left -= len(data)


@dataclass(frozen=True)
class Usage:
    rss: int
    fds: int
    tasks: int
    threads: int

    @classmethod
    def now(cls) -> Usage:
        gc.collect()
        process = psutil.Process()
        return cls(
            process.memory_info().rss, process.num_fds(), len(asyncio.all_tasks()), threading.active_count()
        )


@pytest.fixture(scope="module")
async def wide(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Egress]:
    sizing = Sizing(warm=0, sandboxes=PRINCIPALS * EACH + 1, memory=64 * 1024**3, parallel_starts=4)
    async with open_egress(tmp_path_factory.mktemp("thousand"), sizing) as egress:
        yield egress


class Programs:
    """Each holds its tunnels in a sandbox of its own."""

    def __init__(self, egress: Egress, port: int) -> None:
        self.egress, self.where = egress, f"{SITE}:{port}"
        self.opened: list[list[object]] = []
        self.ended: list[str] = []
        self._news = anyio.Event()

    async def run(self, principal: int, count: int) -> None:
        code = CLIENT % {"where": self.where, "name": f"{principal}", "piece": PIECE, "count": count}

        def on_event(event: RunEvent) -> None:
            if isinstance(event, Output) and event.data.startswith(b"["):
                self.opened.append(json.loads(event.data))
                self._news.set()

        request = RunRequest("bash", code, limits=RunLimits(wall=60))
        result = await self.egress.lab.manager.run(request, caller=Caller(f"p{principal}"), on_event=on_event)
        assert result.outcome == "ok", result.stderr.text
        self.ended.append(result.stdout.text.splitlines()[-1])

    async def until_opened(self, count: int) -> None:
        while len(self.opened) < count:
            self._news = anyio.Event()
            await self._news.wait()


async def round_of(egress: Egress, origin: Origin, principals: int, each: int) -> tuple[Usage, int]:
    """So many programs at once: what it takes while all are open, and how many tunnels there were."""
    world, hold = egress.world, Hold()
    world.clear()
    world.limits = EgressLimits(tunnels=MOST_TUNNELS)
    origin.handler = hold
    world.allow(SITE, origin.port, opaque=True)
    programs = Programs(egress, origin.port)
    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for number in range(principals * each):
                tasks.start_soon(programs.run, number % principals, TUNNELS)
            await programs.until_opened(principals * each)
            assert programs.opened == [[TUNNELS, TUNNELS, []]] * (principals * each)
            most, connections = Usage.now(), world.gateway.connections
            if full := world.gateway.connections == ALL:
                tasks.start_soon(programs.run, 0, 10)
                await programs.until_opened(principals * each + 1)
                assert programs.opened[-1] == [LEFT, LEFT, [TOO_MANY]]
            hold.go.set()
    assert sorted(programs.ended) == sorted([str(TUNNELS)] * (principals * each) + [str(LEFT)] * full)
    await egress.lab.at_rest()
    await egress.lab.until(lambda: world.gateway.connections == 0)
    assert len(world.records) == connections + 10 * full
    world.clear()
    return most, connections


async def test_a_thousand_tunnels_out_of_containers_carry_all_bytes_and_leave_nothing(wide: Egress) -> None:
    """And one more than a principal may have is refused in words, while all others go on."""
    origin = await wide.world.origin()
    await round_of(wide, origin, 1, 1)
    before = await at_rest(wide)
    most, connections = await round_of(wide, origin, PRINCIPALS, EACH)
    assert connections == ALL >= 1000
    # The server behind them, whose tasks and sockets are as many, is in it.
    assert most.rss - before.rss < ALL * 128 * KIB
    assert most.threads - before.threads < 50
    first = await at_rest(wide)
    assert first.tasks <= before.tasks
    await round_of(wide, origin, PRINCIPALS, EACH)
    second = await at_rest(wide)
    # Apart from some more connections to the engine, all is as it was.
    assert second.fds - before.fds < 40
    assert second.tasks <= before.tasks
    assert second.threads - before.threads < 20
    assert second.rss - first.rss < 16 * MIB


async def at_rest(egress: Egress) -> Usage:
    """Once all that ended has been let go of."""
    await egress.lab.at_rest()
    tasks = -1
    while tasks != len(asyncio.all_tasks()):
        tasks = len(asyncio.all_tasks())
        await anyio.wait_all_tasks_blocked()
    return Usage.now()
