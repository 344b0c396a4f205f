"""The way out of a sandbox whose kernel is gVisor: the same listener, on a loopback of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from sandbox_server.access.egress.trust import sandbox_bundle
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import InvalidRequest, SandboxLost
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunLimits, RunRequest, RunResult
from sandbox_server.execution.process_models import PollProcess, StartProcess, Wanted
from sandbox_server.images.recipes import tag_of
from tests.access.egress.world import SITE, World, echo

LIMITS = RunLimits(wall=30.0, cpu=30.0)
CLIENT = """
import os, socket, sys, urllib.error, urllib.request
from urllib.parse import urlsplit
def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer: return answer.status
    except urllib.error.HTTPError as error: return error.code
    except OSError as error: return str(error)
def connect(host):
    where = urlsplit(os.environ["HTTP_PROXY"])
    s = socket.create_connection((where.hostname, where.port), timeout=10)
    s.sendall(f"CONNECT {host} HTTP/1.0\\r\\n\\r\\n".encode())
    return s, s.recv(1000)[9:12].decode()
"""


@dataclass
class Place:
    manager: Manager
    world: World

    async def run(self, code: str, connection: str | None = None) -> RunResult:
        asked = RunRequest("python", CLIENT + code, limits=LIMITS)
        with anyio.fail_after(90):
            return await self.manager.run(
                asked, caller=Caller(connection=connection), on_event=lambda event: None
            )

    async def lines(self, code: str, connection: str | None = None) -> list[str]:
        result = await self.run(code, connection)
        assert result.outcome == "ok", result.stderr.text
        return result.stdout.text.splitlines()

    async def nobody_connected(self) -> None:
        with anyio.fail_after(10):
            while self.world.gateway.connections:  # noqa: ASYNC110 - they end in their own time
                await anyio.sleep(0.01)


@pytest.fixture
async def place(owner: Owner, gvisor_host: str, tmp_path: Path) -> AsyncIterator[Place]:
    engine = DockerEngine(owner, tag_of, base_url=gvisor_host)
    profile = Profile("python", runtime="runsc")
    grants = {"python": Grant(LANGUAGES["python"], profile, LIMITS, LIMITS, egress="web")}
    async with anyio.create_task_group() as tasks:
        world = World(tasks, tmp_path)
        world.gateway.trust = sandbox_bundle(world.public.pem, world.authority)
        async with Manager(engine, grants, Sizing(warm=0), egress=world.gateway) as manager:
            yield Place(manager, world)
        tasks.cancel_scope.cancel()
    for listener in world.listeners:
        await listener.aclose()


async def test_allowed_hosts_are_reached_others_are_denied_and_there_is_no_way_round(place: Place) -> None:
    plain, secure = await place.world.origin(), await place.world.origin(tls=SITE)
    for origin in (plain, secure):
        place.world.allow(SITE, origin.port)
    code = f"""
print(fetch("http://{SITE}:{plain.port}/"), fetch("https://{SITE}:{secure.port}/"))
print(fetch("http://other.example.com/"), connect("{SITE}:22")[1])
try: socket.create_connection(("192.0.2.1", 443), 3)
except OSError as error: print("no route")
"""
    assert await place.lines(code) == ["200 200", "403 403", "no route"]
    assert {record.verdict for record in place.world.records} == {"allowed", "denied"}


async def test_what_a_run_opened_ends_with_it_and_the_next_has_its_own(place: Place) -> None:
    origin = await place.world.origin(handler=echo)
    place.world.allow(SITE, origin.port, opaque=True)
    host = f"{SITE}:{origin.port}"
    hold = f"held = [connect({host!r}) for _ in range(5)]\nprint([said for _, said in held])"
    assert await place.lines(hold, "c") == [str(["200"] * 5)]
    await place.nobody_connected()
    again = f"print([s.recv(10) for s, _ in held] == [b''] * 5, connect({host!r})[1])"
    assert await place.lines(again, "c") == ["True 200"]


async def test_a_flood_of_bytes_comes_back_whole(place: Place) -> None:
    origin = await place.world.origin(handler=echo)
    place.world.allow(SITE, origin.port, opaque=True)
    code = f"""
import hashlib, threading
s, said = connect("{SITE}:{origin.port}")
data = os.urandom(1 << 20)
threading.Thread(target=s.sendall, args=(data,)).start()
back = b""
while len(back) < len(data): back += s.recv(65536)
print(said, back == data)
"""
    assert await place.lines(code) == ["200 True"]


async def test_a_program_that_kills_the_runner_takes_its_connections_along(place: Place) -> None:
    origin = await place.world.origin(handler=echo)
    place.world.allow(SITE, origin.port, opaque=True)
    with pytest.raises(SandboxLost):
        await place.run(
            f"s, said = connect('{SITE}:{origin.port}')\nos.kill(1, 9)\nimport time; time.sleep(10)"
        )
    await place.nobody_connected()


async def test_background_processes_have_it_too_or_are_refused(place: Place) -> None:
    """Releases of gVisor without PR_SET_CHILD_SUBREAPER can't keep any; runs have their way out anyway."""
    origin = await place.world.origin(handler=echo)
    place.world.allow(SITE, origin.port, opaque=True)
    ask = f"print(connect('{SITE}:{origin.port}')[1], flush=True)"
    can = await place.lines("import ctypes\nprint(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0))", "probe") == ["0"]
    caller, perform = Caller(connection="c"), place.manager.processes.perform
    said = ""
    try:
        start = StartProcess(("python3", "-u", "-c", CLIENT + ask))
        answer = await perform(start, caller=caller, on_event=lambda event: None)
        with anyio.fail_after(30):
            while "\n" not in said:
                poll = PollProcess(answer.processes[0].id, Wanted(0, wait=5))
                output = (await perform(poll, caller=caller, on_event=lambda event: None)).output
                said = output.stdout.decode() if output else ""
    except InvalidRequest as refusal:
        said = refusal.message
    assert said == ("200\n" if can else "this sandbox's runtime can't keep background processes")
    assert await place.lines(ask, "c") == ["200"]
    await place.nobody_connected()
