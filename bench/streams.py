"""Bytes: the attached stream itself, and a gigabyte of output through the whole server."""

from __future__ import annotations

import time

from anyio.to_thread import run_sync

from bench.context import Bench
from bench.raw import LARGE
from bench.report import Row
from bench.server import http_client, http_server, peak_memory, reset_peak, run_code

MIB = 1024 * 1024
FLOOD = "import os\npiece = b'x' * (1 << 20)\nfor _ in range({count}):\n    os.write(1, piece)\n"


async def measure(bench: Bench) -> None:
    bench.say("the raw attached stream")
    trips, up, down = await run_sync(bench.raw.stream, bench.times(200, 50))
    bench.rows += [
        Row.of("raw attached stream, round trip", trips),
        Row("raw attached stream, up", "MB/s", LARGE / up / 1e6),
        Row("raw attached stream, down", "MB/s", LARGE / down / 1e6),
    ]
    count = bench.times(1000, 200)
    bench.say(f"capturing {count} MiB of stdout")
    async with (
        http_server(bench.directory, "flood", warm=1) as server,
        http_client(server, session=False) as client,
    ):
        await run_code(client, "print(1)")
        await run_code(client, FLOOD.format(count=8))  # buffers that every server has once are not growth
        await server.quiet(bench.api)
        before = server.memory()
        reset_peak(server.pid)
        begin = time.perf_counter()
        result = await run_code(client, FLOOD.format(count=count))
        taken = time.perf_counter() - begin
        grown = peak_memory(server.pid) - before
        cut = result["truncated"]["stdout"]
        begin = time.perf_counter()
        page = await client.read_resource(f"{cut['uri']}?offset={cut['kept_bytes'] // 2}&limit=32768")
        paged = time.perf_counter() - begin
        begin = time.perf_counter()
        await client.read_resource(f"{cut['uri']}?grep=absent")
        searched = time.perf_counter() - begin
    if len(page.contents[0].text) != 32768:
        raise RuntimeError("a page of the output is not what was printed")
    if result["outcome"] != "ok" or result["truncated"]["stdout"]["total_bytes"] != count * MIB:
        raise RuntimeError(f"the flood was not captured: {result['outcome']} {result['truncated']}")
    bench.rows += [
        Row(
            f"capturing {count} MiB of stdout: server RSS grows",
            "MiB",
            grown / MIB,
            target="< 16 MiB",
            ratio=grown / MIB,
            bound=16.0,
        ),
        Row("capturing stdout: rate", "MB/s", count * MIB / taken / 1e6),
        Row(
            "reading a page of large output",
            "ms",
            1000 * paged,
            note=f"32 KiB of {cut['kept_bytes'] / MIB:.0f} MiB kept, HTTP",
        ),
        Row("searching large output", "MB/s", cut["kept_bytes"] / searched / 1e6),
    ]
