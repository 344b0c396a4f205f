"""llm-sandbox beside us, if it is installed: its own API, in process, on the same image."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any

from anyio.to_thread import run_sync

from bench.context import Bench
from bench.report import Row
from bench.stats import Samples


async def measure(bench: Bench) -> None:
    if importlib.util.find_spec("llm_sandbox") is None:
        bench.remarks.append("no peer beside it: llm-sandbox is not installed")
        return
    bench.say("llm-sandbox: open, run, close")
    opened, ran, closed = Samples(), Samples(), Samples()
    for _ in range(bench.times(3, 1)):
        await run_sync(_one, bench.raw.image, opened, ran, closed)
    bench.rows += [
        Row.of("llm-sandbox: open", opened),
        Row.of("llm-sandbox: run", ran),
        Row.of("llm-sandbox: close", closed),
    ]


def _one(image: str, opened: Samples, ran: Samples, closed: Samples) -> None:
    llm_sandbox: Any = importlib.import_module("llm_sandbox")
    session = llm_sandbox.SandboxSession(
        lang="python",
        image=image,
        skip_environment_setup=True,
        runtime_configs={"entrypoint": ["sleep", "600"]},
    )
    begin = time.perf_counter()
    session.open()
    try:
        opened.add(time.perf_counter() - begin)
        begin = time.perf_counter()
        result = session.run("print(1)")
        ran.add(time.perf_counter() - begin)
        if result.exit_code != 0:
            raise RuntimeError(f"llm-sandbox: {result.stderr}")
    finally:
        begin = time.perf_counter()
        session.close()
        closed.add(time.perf_counter() - begin)
