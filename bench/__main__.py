"""`python -m bench`: the real server, driven by real MCP clients, beside the raw engine."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console

from bench import (
    calls,
    database,
    egress,
    files,
    machine,
    memory,
    peer,
    rates,
    reuse,
    sql,
    stops,
    streams,
    web,
)
from bench.context import Bench
from bench.dockerapi import DockerApi
from bench.raw import Raw, sweep
from bench.report import Report, compare
from bench.server import instance_ids, write_policy
from sandbox_server.observe.logs import setup_logs

RESULTS = Path(__file__).parent / "results"

MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "calls": calls.measure,
    "cold": rates.measure_cold,
    "sustained": rates.measure_sustained,
    "reuse": reuse.measure,
    "stops": stops.measure,
    "memory": memory.measure,
    "streams": streams.measure,
    "files": files.measure,
    "sql": sql.measure,
    "peer": peer.measure,
    "web": web.measure,
    "egress": egress.measure,
    "database": database.measure,
}


def main() -> int:
    arguments = _parse()
    console = Console(width=None if sys.stdout.isatty() else 180)
    if arguments.compare:
        before, after = (Report.load(path) for path in arguments.compare)
        console.print(compare(before, after))
        return 0
    names = arguments.only or list(MEASUREMENTS)
    try:
        report = _measure(names, quick=arguments.quick)
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left behind")
        return 130
    report.print(console)
    path = arguments.output or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    report.save(path)
    console.print(f"written to {path}", highlight=False)
    return 1 if arguments.strict and any(row.met is False for row in report.rows) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: does it work at all")
    parser.add_argument(
        "--only", action="append", choices=list(MEASUREMENTS), help="this one; may be repeated"
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes; bench/results/ if not given")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("BEFORE", "AFTER"),
        help="compare two JSON files",
    )
    return parser.parse_args()


def _measure(names: list[str], *, quick: bool) -> Report:
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-bench-") as directory,
        (Path(directory) / "log").open("w") as log,
    ):
        # As a server's own: lines are made and written, and nobody's terminal is measured.
        setup_logs(stream=log)
        api = DockerApi()
        facts = machine.describe(api)
        raw = Raw(write_policy(Path(directory), "raw"))
        bench = Bench(Path(directory), raw, api, quick, say=_say)
        try:
            anyio.run(partial(_run_all, bench, names))
        finally:
            left = sum(sweep(instance) for instance in (raw.instance, *instance_ids(bench.directory)))
        bench.remarks.append(f"containers that an orderly stop left behind: {left}")
        return Report(facts, bench.rows, time.monotonic() - begin, quick, bench.remarks)


async def _run_all(bench: Bench, names: list[str]) -> None:
    for name in names:
        await MEASUREMENTS[name](bench)


def _say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
