# ruff: noqa: E501 - a program in a string keeps its own lines
"""Background processes with a way out: theirs as long as they live, the session's own, and nobody's besides.
Beyond the list of README.md."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandbox_server.errors import NotFound
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import RunRequest, SessionRequest
from sandbox_server.execution.process_models import StartProcess
from sandbox_server.guards.web import EgressLimits
from tests.access.egress.world import SITE, echo
from tests.hostile.background_place import Station, ignore, open_station
from tests.hostile.egress_place import Egress

CLIENT = """
import os, resource, socket, sys, time
from urllib.parse import urlsplit
def proxy():
    return urlsplit(os.environ["HTTP_PROXY"]).hostname, urlsplit(os.environ["HTTP_PROXY"]).port
def connect(host):
    s = socket.create_connection(proxy(), timeout=15)
    s.sendall(f"CONNECT {host} HTTP/1.0\\r\\n\\r\\n".encode())
    return s, s.recv(1000)[9:12].decode()
"""
ASKS = """
for line in sys.stdin:
    s, said = connect(line.strip())
    print(said, flush=True)
"""
ECHOES = """
s, said = connect(sys.argv[1])
print(said, flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    print(s.recv(1000).decode(), flush=True)
"""


@pytest.fixture
async def station(egress: Egress) -> AsyncIterator[Station]:
    async with open_station(egress.lab) as station:
        yield station
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)


async def start(station: Station, code: str, *arguments: str) -> str:
    return await station.start("python3", "-u", "-c", CLIENT + code, *arguments)


async def test_it_reaches_what_its_session_may_reach_whether_a_run_goes_on_or_not(
    egress: Egress, station: Station
) -> None:
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    allowed, denied = f"{SITE}:{origin.port}", "other.example.com:443"
    process = await start(station, ASKS)
    for expected, host in (("200", allowed), ("403", denied)):
        await station.write(process, f"{host}\n".encode())
        await station.says(process, expected)
    assert (await station.cell(CLIENT + f"print(connect({allowed!r})[1])", bare=True)).stdout.text == "200\n"
    await station.write(process, f"{allowed}\n{denied}\n".encode())
    await station.says(process, "200\n403\n200\n403\n")
    await egress.lab.until(lambda: len(egress.world.records) >= 3)
    assert {record.principal for record in egress.world.records} == {"anonymous"}
    assert {record.profile for record in egress.world.records} == {"web"}


async def test_its_connection_outlives_runs_interrupts_and_timeouts(egress: Egress, station: Station) -> None:
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    process = await start(station, ECHOES, f"{SITE}:{origin.port}")
    await station.says(process, "200\n")
    said = "200\n"
    for cell, outcome in (
        ("x = 1", "ok"),
        ("while True: pass", "timeout"),
        ("import os; os._exit(3)", "error"),
    ):
        assert (await station.cell(cell, bare=True, wall=1.0)).outcome == outcome
        await station.write(process, f"after {outcome}\n".encode())
        said += f"after {outcome}\n\n"
        assert await station.says(process, f"after {outcome}\n\n") == said
    assert origin.connections == 1


@pytest.mark.parametrize("ending", ["kill", "exit", "reset"])
async def test_its_connections_and_the_listener_end_with_it(
    egress: Egress, station: Station, ending: str
) -> None:
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    process = await start(station, ECHOES, f"{SITE}:{origin.port}")
    await station.says(process, "200\n")
    # Nothing of it is left for who comes later: neither its connection nor a port to make one by.
    keeper = await start(station, "time.sleep(1000)") if ending == "kill" else None
    assert egress.world.gateway.connections == 1
    if ending == "kill":
        assert keeper is not None
        await station.signal(process, "KILL")
        await station.signal(keeper, "KILL")
    elif ending == "exit":
        await station.write(process, b"", close=True)
        await station.end(process)
    else:
        session = (await station.cell("1", bare=True)).session.id
        assert session is not None
        await station.lab.manager.sessions.reset(
            session, "interpreter", caller=Caller(connection=station.connection), on_event=lambda event: None
        )
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)
    listed = await station.cell(
        "print(open('/proc/net/tcp').read().count(' 0A '))", "python-inside", bare=True
    )
    assert listed.stdout.text == "0\n"
    alone = await station.python("print(open('/proc/net/tcp').read().count(' 0A '))")
    assert "1" in await station.says(alone, "\n")  # its own


async def test_what_it_leaves_behind_has_no_way_out(egress: Egress, station: Station, mark: str) -> None:
    """A child that outlives its parent ends with it, and so does its connection."""
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    process = await start(
        station,
        f"""
import ctypes
s, said = connect({f"{SITE}:{origin.port}"!r})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, {mark.encode()!r}, 0, 0, 0)
        print(said, flush=True)
        time.sleep(1000)
    os._exit(0)
input()
""",
    )
    await station.says(process, "200")
    assert len(station.lab.named(mark)) == 1
    await station.write(process, b"\n", close=True)
    await station.end(process)
    assert station.lab.named(mark) == []
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)


async def test_caps_count_runs_and_background_processes_together(egress: Egress, station: Station) -> None:
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    egress.world.limits = EgressLimits(bytes_out=200_000)
    host = f"{SITE}:{origin.port}"
    process = await start(
        station, f"s, said = connect({host!r})\ns.sendall(b'x' * 150_000)\nprint(said)\ninput()"
    )
    await station.says(process, "200")
    code = (
        CLIENT
        + f"s, said = connect({host!r})\nprint(said)\ns.sendall(b'x' * 80_000)\nprint(len(s.recv(1, socket.MSG_WAITALL)))"
    )
    assert (await station.cell(code, bare=True)).stdout.text.startswith("200\n")
    await egress.lab.until(lambda: egress.world.gateway.connections == 1)
    assert (await station.cell(CLIENT + f"print(connect({host!r})[1])", bare=True)).stdout.text == "403\n"


FLOOD = """
held = []
print("up")
while True:
    try: held.append(connect(sys.argv[1])[0])
    except OSError: time.sleep(0.01)
    if len(held) > 40: held.pop(0).close()
"""


async def test_one_that_makes_connections_without_end_harms_nobody_but_its_session(
    egress: Egress, station: Station
) -> None:
    """And the cells of its session still run, on time."""
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    egress.world.limits = EgressLimits(tunnels=8)
    host = f"{SITE}:{origin.port}"
    process = await start(station, FLOOD, host)
    await station.says(process, "up")
    await egress.lab.until(lambda: egress.world.gateway.connections == 8)
    result = await station.cell("print('hi')", bare=True)
    assert (result.outcome, result.stdout.text) == ("ok", "hi\n")
    assert result.usage.wall < 5
    async with open_station(egress.lab) as other:
        asked = await other.cell(CLIENT + f"print(connect({host!r})[1])", bare=True)
        assert asked.stdout.text == "200\n"
    await station.signal(process, "KILL")
    assert (await station.cell(CLIENT + f"print(connect({host!r})[1])", bare=True)).stdout.text == "200\n"


async def test_its_connections_leave_the_supervisor_the_descriptors_that_runs_need(egress: Egress) -> None:
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    egress.world.limits = EgressLimits(tunnels=64)
    manager, caller = egress.lab.manager, Caller()
    made = await manager.sessions.create(SessionRequest("python-few"), caller=caller, on_event=ignore)
    command = ("python3", "-u", "-c", CLIENT + FLOOD, f"{SITE}:{origin.port}")
    for _ in range(2):
        await manager.processes.perform(
            StartProcess(command), caller=caller, session=made.info.id, on_event=ignore
        )
    # As many as there is room for; more wait for one of these to end.
    await egress.lab.until(lambda: egress.world.gateway.connections >= 20)
    code = "import subprocess; print(subprocess.check_output(['echo', 'hi']))"
    for _ in range(5):
        asked = RunRequest("python-few", code)
        result = await manager.run(asked, caller=caller, on_event=ignore, session=made.info.id)
        assert (result.outcome, result.stdout.text) == ("ok", "b'hi\\n'\n")
    assert egress.world.gateway.connections < 64
    assert made.info.id is not None
    manager.sessions.close(made.info.id, caller=caller)
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)


async def test_a_language_with_another_way_out_reaches_neither_it_nor_its_connections(
    egress: Egress, station: Station
) -> None:
    """What a background process lets others use is its own session's."""
    process = await start(station, "open('here', 'w').close()\nprint(proxy()[1])\ntime.sleep(1000)")
    port = int(await station.says(process, "\n"))
    code = f"""
import os, socket
print(os.path.exists("here"))
try: socket.create_connection(("127.0.0.1", {port}), 3)
except OSError as error: print(type(error).__name__)
"""
    inside = await station.cell(code, "python-inside", bare=True)
    assert inside.stdout.text == "False\nConnectionRefusedError\n"
    assert (await station.cell("import os; print(os.path.exists('here'))", bare=True)).stdout.text == "True\n"


async def test_a_process_of_a_session_that_has_ended_reaches_nobody(egress: Egress, station: Station) -> None:
    origin = await egress.world.origin(handler=echo)
    egress.world.allow(SITE, origin.port, opaque=True)
    process = await start(station, ECHOES, f"{SITE}:{origin.port}")
    await station.says(process, "200\n")
    await station.lab.manager.close_connection(station.connection)
    await egress.lab.until(lambda: egress.world.gateway.connections == 0)
    with pytest.raises(NotFound):
        await station.poll(process)
