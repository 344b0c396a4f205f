"""Memory of what waits and of what is kept, and what a preloaded import costs."""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench.calls import PRELOAD
from bench.context import Bench
from bench.report import Row
from bench.server import Server, http_client, http_server, process_memory, run_code
from bench.stats import Samples

MIB = 1024 * 1024
SESSIONS = 20
# What a program pays for them, by its own clock: nothing else is in it.
IMPORT = """
import time
begin = time.perf_counter()
import pandas, numpy, matplotlib
print((time.perf_counter() - begin) * 1e6)
"""


async def measure(bench: Bench) -> None:
    await _plain(bench)
    await _preloaded(bench)


async def _plain(bench: Bench) -> None:
    bench.say(f"memory: idle sandboxes and {SESSIONS} sessions")
    async with http_server(bench.directory, "memory", warm=2) as server:
        async with http_client(server, session=False) as client:
            for _ in range(3):
                await run_code(client, "print(1)")
        await server.quiet(bench.api, settle=0.5)
        idle = _idle_memory(bench, server)
        base = server.memory()
        async with AsyncExitStack() as stack:
            for _ in range(SESSIONS):
                client = await stack.enter_async_context(http_client(server, session=True))
                await run_code(client, "x = 1")
            grown = server.memory() - base
    bench.rows += [
        _memory_row("idle warm sandbox, PSS", idle, bound=25.0, target="<= 25 MiB"),
        Row(
            "server RSS per 100 live sessions",
            "MiB",
            grown / MIB * 100 / SESSIONS,
            samples=SESSIONS,
            target="<= 20 MiB",
            ratio=grown / MIB * 100 / SESSIONS,
            bound=20.0,
            note=f"scaled up from {SESSIONS}; the base is {base / MIB:.0f} MiB",
        ),
    ]


async def _preloaded(bench: Bench) -> None:
    bench.say(f"memory and import with {', '.join(PRELOAD)} preloaded")
    limits = {"memory": "512MiB", "pids": 128}
    imports, fresh, noop = Samples(), Samples(), Samples()
    async with (
        http_server(bench.directory, "preload", warm=2, preload=PRELOAD, limits=limits) as server,
        http_client(server, session=False) as client,
    ):
        await server.quiet(bench.api, settle=2.5)
        idle = _idle_memory(bench, server)
        await run_code(client, "print(1)")
        for _ in range(bench.times(8, 2)):
            await server.quiet(bench.api, settle=2.0)
            await noop.time(client.list_tools)
            mine = Samples()
            result = await mine.time(lambda: run_code(client, IMPORT))
            if result["timings"]["warm"]:
                imports.add(float(result["stdout"]) / 1e6)
                fresh.add(mine.p50)
    bench.rows += [
        _memory_row("idle warm sandbox, preloaded, PSS", idle, bound=120.0, target="<= 120 MiB"),
        Row.of(
            "import pandas in a run, preloaded",
            imports,
            target="<= 5 ms",
            ratio=1000 * imports.p50,
            bound=5.0,
            note=f"preloaded: {', '.join(PRELOAD)}",
        ),
        Row.of(
            "fresh container, first run, HTTP, preloaded",
            fresh,
            target="<= 4 x no-op",
            ratio=fresh.p50 / noop.p50,
            bound=4.0,
        ),
    ]


def _idle_memory(bench: Bench, server: Server) -> Samples:
    """Bytes, one per waiting sandbox: the runner and what it has forked ahead."""
    found = Samples()
    for container in server.containers(bench.api, running=True):
        found.add(sum(process_memory(pid) for pid in bench.api.pids(container)))
    return found


def _memory_row(name: str, found: Samples, *, target: str, bound: float) -> Row:
    p50, p95, p99 = (value / MIB for value in (found.p50, found.p95, found.p99))
    most = found.most / MIB
    return Row(name, "MiB", p50, p95, p99, len(found), target=target, ratio=most, bound=bound)
