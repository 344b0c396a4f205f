"""How late a time-out is, and whether anything survives it."""

from __future__ import annotations

from bench.context import Bench
from bench.report import Row
from bench.server import Server, http_client, http_server, run_code
from bench.stats import Samples

TIMEOUT = 0.3
LOOP = "while True:\n    pass"
# A daemon that has left the session and the process group, and ignores what can be ignored.
DAEMONS = """
import os, signal, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            while True:
                time.sleep(1)
        os._exit(0)
    os.wait()  # or the dead ones, which a kept interpreter keeps, would take all places after some cells
while True:
    pass
"""


async def measure(bench: Bench) -> None:
    bench.say(f"time-outs of {TIMEOUT} s")
    overshoot, returned = Samples(), Samples()
    survivors: list[int] = []
    heard: list[bool] = []
    async with (
        http_server(bench.directory, "stops", warm=0) as server,
        http_client(server, session=True) as client,
    ):
        await run_code(client, "pass")
        for program in (LOOP, DAEMONS) * bench.times(25, 5):
            seen = Samples()
            result = await seen.time(lambda program=program: run_code(client, program, timeout=TIMEOUT))  # type: ignore[misc]
            if result["outcome"] != "timeout":
                raise RuntimeError(f"a run that never ends has the outcome {result['outcome']}")
            overshoot.add(result["usage"]["wall_seconds"] - TIMEOUT)
            returned.add(seen.p50 - TIMEOUT)
            # An interpreter that was interrupted in time is kept, standing still: it is the session's.
            kept = result["session"]["state"] == "kept"
            if program == LOOP:
                heard.append(kept)
            survivors.append(max(0, _survivors(bench, server) - kept))
    bench.rows += [
        Row(
            f"time-out of {TIMEOUT} s: overshoot",
            "ms",
            1000 * overshoot.p50,
            1000 * overshoot.p95,
            1000 * overshoot.p99,
            len(overshoot),
            target="max <= 100 ms",
            ratio=1000 * overshoot.most,
            bound=100.0,
        ),
        Row.of("the same at the client, after the time-out", returned),
        Row(
            "interrupted cells that kept their state",
            "x",
            sum(heard) / len(heard),
            samples=len(heard),
            note="of endless loops that hear the interrupt; who takes more than 60 ms to stop is killed",
        ),
        Row(
            "processes that survived a time-out",
            "count",
            sum(survivors),
            samples=len(survivors),
            target="none",
            ratio=float(sum(survivors)),
            bound=0.0,
            note="counted by the engine, from outside, after every call",
        ),
    ]


def _survivors(bench: Bench, server: Server) -> int:
    """Processes of the server's sandboxes but each one's PID 1, the runner."""
    counts = [len(bench.api.pids(each)) for each in server.containers(bench.api, running=True)]
    return sum(count - 1 for count in counts if count)
