"""One-shot runs that ask for `reuse: same_principal`, beside the raw engine's rate of fresh containers."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.to_thread import run_sync
from mcp import Client

from bench.context import Bench
from bench.report import Row
from bench.server import Server, http_client, http_server, run_code
from bench.stats import Samples

CALLERS = 4
RAW_CONCURRENCY = (2, 3, 4)
ARGUMENTS = {"code": "print(1)", "reuse": "same_principal"}
_VERSION = "2026-07-28"


async def measure(bench: Bench) -> None:
    bench.say("runs with reuse: same_principal, in turns with the raw engine")
    raw, bare, official, noop, share = Samples(), Samples(), Samples(), Samples(), Samples()
    total = bench.times(1500, 300)
    async with http_server(bench.directory, "reuse") as server:
        await server.quiet(bench.api)  # once: what is kept for another run idles for a minute, at no cost
        for _ in range(bench.times(3, 1)):
            rates = [await run_sync(bench.raw.rate, count, bench.times(24, 12)) for count in RAW_CONCURRENCY]
            raw.add(max(rates))
            rate, reused = await run_sync(_bare_rate, server, total)
            bare.add(rate)
            share.add(reused)
            official.add(await _official_rate(server, total // 2))
            noop.add(await _official_rate(server, total // 2, noop=True))
    bench.rows += [
        Row("raw engine, best rate (beside reuse)", "/s", raw.p50, samples=len(raw)),
        Row(
            "one-shot runs, reuse: same_principal",
            "/s",
            bare.p50,
            samples=len(bare),
            target=">= 25 x raw rate",
            ratio=bare.p50 / raw.p50,
            bound=25,
            at_most=False,
            note=f"{CALLERS} callers over HTTP without a client library, as the raw engine has none; "
            f"{share.p50:.1%} of the runs were in a scrubbed sandbox",
        ),
        Row(
            "the same through the MCP client",
            "/s",
            official.p50,
            samples=len(official),
            note=f"{official.p50 / noop.p50:.2f} x its own rate of tools/list, {noop.p50:.0f} /s: "
            "client and server share the processors",
        ),
    ]


def _bare_rate(server: Server, total: int) -> tuple[float, float]:
    """Runs per second, and the share of them that came after another in their sandbox. The first ones,
    which use up the warm sandboxes, are not counted."""
    ends: list[float] = []
    reused: list[bool] = []

    def work(count: int) -> None:
        client = BareClient(server.url)
        for _ in range(count):
            timings = client.call("code_execution", ARGUMENTS)["timings"]
            ends.append(time.perf_counter())
            reused.append(bool(timings["reused"]))
        client.close()

    with ThreadPoolExecutor(CALLERS) as threads:
        for done in [threads.submit(work, total // CALLERS) for _ in range(CALLERS)]:
            done.result()
    return _steady_rate(ends), sum(reused) / len(reused)


async def _official_rate(server: Server, total: int, *, noop: bool = False) -> float:
    ends: list[float] = []

    async def caller(client: Client) -> None:
        for _ in range(total // CALLERS):
            await (client.list_tools() if noop else run_code(client, **ARGUMENTS))
            ends.append(time.perf_counter())

    async with http_client(server, session=False) as client, anyio.create_task_group() as callers:
        for _ in range(CALLERS):
            callers.start_soon(caller, client)
    return _steady_rate(ends)


def _steady_rate(ends: list[float]) -> float:
    steady = sorted(ends)[len(ends) // 10 : len(ends) - CALLERS]
    return (len(steady) - 1) / (steady[-1] - steady[0])


class BareClient:
    """The least that calls a tool: one kept connection, no checks."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._path = where.path
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The structured result."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": _VERSION,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        headers = {
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "MCP-Protocol-Version": _VERSION,
            "Mcp-Method": "tools/call",
            "Mcp-Name": tool,
        }
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        self._connection.request("POST", self._path, body, headers)
        answer = json.loads(self._connection.getresponse().read())
        result: dict[str, Any] = answer["result"]["structuredContent"]
        if "outcome" not in result:
            raise RuntimeError(f"the server answers: {result}")
        return result

    def close(self) -> None:
        self._connection.close()
