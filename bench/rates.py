"""How many fresh containers a second, and what a miss of the pool costs, beside the raw engine."""

from __future__ import annotations

import time

import anyio
from anyio.to_thread import run_sync
from mcp import Client

from bench.context import Bench
from bench.raw import Phases
from bench.report import Row
from bench.server import Server, http_client, http_server, run_code
from bench.stats import Samples

CALLERS = 8


async def measure_sustained(bench: Bench) -> None:
    bench.say("raw engine: create, start, remove")
    phases = Phases()
    for _ in range(bench.times(6, 3)):
        await run_sync(bench.raw.one, bench.api, phases)
    bench.rows += [
        Row.of("raw engine: create", phases.create),
        Row.of("raw engine: start", phases.start),
        Row.of("raw engine: remove", phases.remove),
    ]
    trial = bench.times(8, 4)
    rates = {count: await run_sync(bench.raw.rate, count, trial) for count in (1, 2, 3, 4)}
    best = max(rates, key=rates.__getitem__)
    bench.say(f"one-shot runs in a row, in turns with the raw engine at concurrency {best}")
    raw, ours, busy = Samples(), Samples(), Samples()
    async with http_server(bench.directory, "sustained") as server:
        for _ in range(bench.times(3, 1)):
            await server.quiet(bench.api)
            raw.add(await run_sync(bench.raw.rate, best, bench.times(24, 12)))
            ours.add(await _one_shots(server, bench.times(40, 16), busy))
    bench.rows += [
        Row("raw engine, best rate", "/s", raw.p50, samples=len(raw), note=f"concurrency {best} of 1 to 4"),
        Row(
            "one-shot runs, fresh container each",
            "/s",
            ours.p50,
            samples=len(ours),
            target=">= 0.9 x raw rate",
            ratio=ours.p50 / raw.p50,
            bound=0.9,
            at_most=False,
        ),
        Row.of("one such call under that load", busy),
    ]


async def _one_shots(server: Server, total: int, taken: Samples) -> float:
    """Runs per second once the warm sandboxes are used up: those are not counted."""
    ends: list[float] = []

    async def caller(client: Client, count: int) -> None:
        for _ in range(count):
            await taken.time(lambda: run_code(client, "print(1)"))
            ends.append(time.perf_counter())

    async with http_client(server, session=False) as client, anyio.create_task_group() as callers:
        for _ in range(CALLERS):
            callers.start_soon(caller, client, total // CALLERS)
    # The last callers find no others beside them, so neither the start nor the end is the steady state.
    steady = ends[server.warm : len(ends) - CALLERS // 2]
    return (len(steady) - 1) / (steady[-1] - steady[0])


async def measure_cold(bench: Bench) -> None:
    bench.say("cold miss, in turns with a bare create, start and first run")
    bare, missed = Samples(), Samples()
    async with (
        http_server(bench.directory, "cold", warm=0) as server,
        http_client(server, session=False) as client,
    ):
        await run_code(client, "print(1)")
        for _ in range(bench.times(16, 5)):
            await server.quiet(bench.api, settle=0.05)
            bare.add(await run_sync(bench.raw.first_run))
            result = await missed.time(lambda: run_code(client, "print(1)"))
            if result["timings"]["warm"]:
                raise RuntimeError("a pool that keeps nothing warm gave a warm sandbox")
    bench.rows += [
        Row.of("bare create, start, first run", bare),
        Row.of(
            "cold miss (pool empty), HTTP",
            missed,
            target="<= 1.2 x bare",
            ratio=missed.p50 / bare.p50,
            bound=1.2,
        ),
    ]
