"""What one call takes, seen from an MCP client: the no-op, a fresh container, a stateful cell."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
from anyio.to_thread import run_sync
from mcp import Client

from bench.context import Bench
from bench.report import Row
from bench.server import Server, http_client, http_server, run_code, stdio_client_of
from bench.stats import Samples

PRELOAD = ("numpy", "pandas", "matplotlib")
SESSIONS = 10
CELL = "x = globals().get('x', 0) + 1\nprint(x)"


async def measure(bench: Bench) -> None:
    async with http_server(bench.directory, "calls") as server:
        await _http(bench, server)
        await _many(bench, server)
    await _stdio(bench)


async def _http(bench: Bench, server: Server) -> None:
    bench.say("no-op, fresh container and stateful cell over HTTP, docker run beside them")
    noop, fresh, fresh_server = Samples(), Samples(), Samples()
    session_noop, cell, cell_server, docker = Samples(), Samples(), Samples(), Samples()
    cold = 0
    async with http_client(server, session=False) as client, http_client(server, session=True) as session:
        await run_code(client, "print(1)")
        await run_code(session, CELL)
        server.warm += 1  # the session's own sandbox
        for turn in range(bench.times(40, 10)):
            await server.quiet(bench.api)
            await noop.time(client.list_tools)
            mine = Samples()
            result = await mine.time(lambda: run_code(client, "print(1)"))
            if result["timings"]["warm"]:
                fresh.add(mine.p50)
                fresh_server.add(result["timings"]["total_seconds"])
            else:
                cold += 1
            await server.quiet(bench.api)
            for _ in range(3):
                await session_noop.time(session.list_tools)
                result = await cell.time(lambda: run_code(session, CELL))
                cell_server.add(result["timings"]["total_seconds"])
            if turn % 4 == 0:
                docker.add(await run_sync(bench.raw.docker_run))
    bench.rows += [
        Row.of("no-op (tools/list), HTTP", noop),
        Row.of("docker run --rm, print(1)", docker),
        Row.of(
            "fresh container, first run, HTTP",
            fresh,
            target="<= 4 x no-op",
            ratio=fresh.p50 / noop.p50,
            bound=4.0,
            note=f"{cold} samples found the pool empty and were left out" if cold else "",
        ),
        Row.of(
            "the same beside docker run",
            fresh,
            target=">= 30 x faster",
            ratio=docker.p50 / fresh.p50,
            bound=30.0,
            at_most=False,
        ),
        Row.of(
            "the same by the server's own clock",
            fresh_server,
            target=">= 100 x faster than docker run",
            ratio=docker.p50 / fresh_server.p50,
            bound=100.0,
            at_most=False,
        ),
        Row.of("no-op in a session, HTTP", session_noop),
        Row.of(
            "stateful cell, HTTP",
            cell,
            target="<= 3 x no-op",
            ratio=cell.p50 / session_noop.p50,
            bound=3.0,
        ),
        Row.of("stateful cell by the server's own clock", cell_server),
    ]


async def _many(bench: Bench, server: Server) -> None:
    """Clients that all call at once, each in a session of its own."""
    bench.say(f"{SESSIONS} concurrent sessions")
    calls, cells = bench.times(40, 10), Samples()

    async def one(client: Client) -> None:
        for _ in range(calls):
            await cells.time(lambda: run_code(client, CELL))

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(http_client(server, session=True)) for _ in range(SESSIONS)
        ]
        for client in clients:
            await run_code(client, CELL)
        await anyio.sleep(1.0)  # the pool fills up again
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(one, client)
    bench.rows.append(
        Row.of(
            f"stateful cell, {SESSIONS} concurrent sessions",
            cells,
            target="p99 <= 4 x p50",
            ratio=cells.p99 / cells.p50,
            bound=4.0,
        )
    )


async def _stdio(bench: Bench) -> None:
    bench.say("stdio")
    noop, cell = Samples(), Samples()
    async with stdio_client_of(bench.directory, "stdio", warm=1) as client:
        await run_code(client, CELL)
        await anyio.sleep(0.5)
        for _ in range(bench.times(100, 20)):
            await noop.time(client.list_tools)
            await cell.time(lambda: run_code(client, CELL))
    bench.rows += [
        Row.of("no-op, stdio", noop),
        Row.of("stateful cell, stdio", cell, target="<= 3 x no-op", ratio=cell.p50 / noop.p50, bound=3.0),
    ]
