"""How many fresh containers a second, and what a miss of the pool costs, beside the raw engine."""

from __future__ import annotations

import time
from functools import partial

import anyio
from anyio.to_thread import run_sync
from mcp import Client

from bench.context import Bench
from bench.report import Row
from bench.server import Server, http_client, http_server, run_code
from bench.stats import Samples

CALLERS = 8


async def measure_sustained(bench: Bench) -> None:
    bench.say("raw engine: create, start, remove")
    create, start, remove = Samples(), Samples(), Samples()
    for _ in range(bench.times(6, 3)):
        for samples, taken in zip((create, start, remove), await run_sync(bench.raw.phases), strict=True):
            samples.add(taken)
    trial = bench.times(12, 4)
    rates = {count: await run_sync(bench.raw.rate, count, trial) for count in (1, 2, 3, 4)}
    best = max(rates, key=rates.__getitem__)
    bench.say(f"one-shot runs in a row, in turns with the raw engine at concurrency {best}")
    raw, raw_runs, ours, busy = Samples(), Samples(), Samples(), Samples()
    async with http_server(bench.directory, "sustained", parallel_starts=best) as server:
        for _ in range(bench.times(3, 1)):
            await server.quiet(bench.api)
            raw.add(await run_sync(bench.raw.rate, best, bench.times(24, 12)))
            raw_runs.add(await run_sync(partial(bench.raw.rate, best, bench.times(24, 12), run=True)))
            ours.add(await _one_shots(server, bench.times(40, 16), busy))
    bench.rows += [
        Row.of("raw engine: create", create),
        Row.of("raw engine: start", start),
        Row.of("raw engine: remove", remove),
        Row("raw engine, best rate", "/s", raw.p50, samples=len(raw), note=f"concurrency {best} of 1 to 4"),
        Row(
            "raw engine, first run in each",
            "/s",
            raw_runs.p50,
            samples=len(raw_runs),
            note="a runner that gets ready and runs print(1), which costs a start of Python",
        ),
        Row(
            "one-shot runs, fresh container each",
            "/s",
            ours.p50,
            samples=len(ours),
            target=">= 0.9 x raw rate",
            ratio=ours.p50 / raw.p50,
            bound=0.9,
            at_most=False,
            note=f"{ours.p50 / raw_runs.p50:.2f} x the raw rate with a first run in each",
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
            bare.add(await run_sync(bench.raw.first_run, bench.api))
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
