"""What the demo does, in order. Each step checks its own claim and says what was observed."""

from __future__ import annotations

import ast
import struct
from typing import Any

from demo import programs
from demo.reach import background, database, web
from demo.stage import Answer, Stage, Step, claim

PNG = b"\x89PNG\r\n\x1a\n"
LATE = 1.0
"""Seconds after its time-out by which a stopped program must be back here, on a busy machine too."""
BOMB_LATE = 3.0
"""The same for a fork bomb: the claim is that it is contained, while it fights for every processor."""


async def analyse(stage: Stage) -> str:
    sales = stage.sales
    file = {"path": "sales.csv", "content": sales.csv.decode()}
    answer = await stage.run(programs.ANALYSIS, files=[file])
    result = answer.result
    claim(result["outcome"] == "ok", "pandas reads the CSV", result["stderr"] or result["outcome"])
    found = ast.literal_eval(result["result"])
    cents = {region: round(100 * revenue) for region, revenue in found["by_region"].items()}
    claim(cents == sales.by_region, "the sums are right to the cent", f"{cents}, not {sales.by_region}")
    claim(found["missing"] == sales.missing, "every row was read", found)
    stage.session = result["session"]["id"]
    return (
        f"{found['rows'] + found['missing']:,} rows ({len(sales.csv) // 1024} KiB) sent and summed up, right "
        f"to the cent: {sales.total / 100:,.2f} in all, most in the {sales.best}; "
        f"{answer.seconds * 1000:.0f} ms, {_getting_ready(result['timings'])}"
    )


def _getting_ready(timings: dict[str, Any]) -> str:
    """The server has just started: the first call may come before its first sandbox is warm."""
    waited = timings["queue_seconds"] + timings["acquire_seconds"]
    return (
        f"of it {waited * 1000:.0f} for the first sandbox" if waited > 0.1 else "in a sandbox that was warm"
    )


async def plot(stage: Stage) -> str:
    answer = await stage.run(programs.PLOT)
    result = answer.result
    claim(result["outcome"] == "ok", "matplotlib plots", result["stderr"] or result["outcome"])
    session = result["session"]
    claim(
        session["state"] == "kept" and session["id"] == stage.session,
        "the second call is in the first one's session",
        session,
    )
    claim(len(answer.images) == 1, "one image comes back", f"{len(answer.images)} images")
    image = answer.images[0]
    claim(image.startswith(PNG), "the image is a PNG", image[:8])
    width, height = struct.unpack(">II", image[16:24])
    path = stage.output / "plot.png"
    path.write_bytes(image)
    return (
        f"the variables of the call before were still there; {width}x{height} PNG, {len(image) // 1024} KiB, "
        f"{answer.seconds * 1000:.0f} ms: {path}"
    )


async def endless_loop(stage: Stage) -> str:
    answer = await _stopped(stage, programs.ENDLESS, 1.0)
    wall = answer.result["usage"]["wall_seconds"]
    told = answer.result["session"]["state"]
    claim(told in ("kept", "reset"), "the result tells what became of the variables", told)
    after = await stage.run("import os; print('sales' in globals(), os.listdir())")
    claim("sales.csv" in after.result["stdout"], "files outlive it", after.result["stdout"])
    kept = after.result["stdout"].startswith("True")
    claim(kept == (told == "kept"), "what the result told of the variables is true", after.result["stdout"])
    return (
        f"allowed 1 s, stopped after {wall:.3f} s, back here after {answer.seconds:.3f} s; "
        + ("interrupted in time, so its variables are kept" if kept else "killed, so its variables are gone")
        + ", the result says so; its files are kept"
    )


async def fork_bomb(stage: Stage) -> str:
    answer = await _stopped(stage, programs.FORK_BOMB, 3.0, late=BOMB_LATE)
    words = answer.result["stdout"].splitlines()
    claim(bool(words), "the bomb meets a limit", "it printed nothing")
    count, _, reason = words[0].partition(" ")
    claim(int(count) <= 160, "there is a limit of processes", words[0])
    after = await stage.run(programs.COUNT_PROCESSES)
    left = int(after.result["result"] or -1)
    claim(left == 2, "only the runner and a new interpreter are left", f"{left} processes")
    return (
        f"no more than {count} processes ({reason}); allowed 3 s, all killed after {answer.seconds:.2f} s; "
        f"the next call took {after.seconds * 1000:.0f} ms"
    )


async def memory_bomb(stage: Stage) -> str:
    answer = await stage.run(programs.MEMORY_BOMB, timeout=20)
    result = answer.result
    claim(result["outcome"] == "out_of_memory", "it ends out of memory", result["outcome"])
    words = result["stdout"].split()
    reached = words[-1] if words else "0"
    claim(200 <= int(reached) <= 600, "it ends near its limit of 512 MiB", f"{reached} MB")
    after = await stage.run("print('alive')")
    claim(after.result["stdout"] == "alive\n", "the next call works", after.result)
    return (
        f"killed at {reached} MB after {answer.seconds:.2f} s (outcome out_of_memory); "
        f"the next call took {after.seconds * 1000:.0f} ms"
    )


async def network(stage: Stage) -> str:
    answer = await stage.run(programs.NETWORK.replace("{port}", str(stage.port)))
    result = answer.result
    claim(result["outcome"] == "ok", "the attempts were made", result["stderr"] or result["outcome"])
    claim(ast.literal_eval(result["stdout"]) == ["lo"], "there is no interface but lo", result["stdout"])
    attempts: dict[str, str] = ast.literal_eval(result["result"])
    claim("REACHED" not in attempts.values() and len(attempts) == 3, "nothing is reached", attempts)
    told = ", ".join(f"{what}: {why}" for what, why in attempts.items())
    return f"no interface but lo; {told}; {answer.seconds * 1000:.0f} ms"


async def _stopped(stage: Stage, program: str, timeout: float, *, late: float = LATE) -> Answer:
    answer = await stage.run(program, timeout=timeout)
    claim(answer.result["outcome"] == "timeout", "a program is stopped", answer.result["outcome"])
    claim(
        timeout <= answer.seconds <= timeout + late,
        f"it is stopped on time ({timeout:g} s)",
        f"{answer.seconds:.3f} s",
    )
    return answer


STEPS = (
    Step("A CSV goes in, pandas analyses it", analyse),
    Step("A plot comes back, drawn from kept state", plot),
    Step("A server in the background", background),
    Step("A database, as far as the policy grants it", database),
    Step("The web, as far as the policy grants it", web),
    Step("An endless loop", endless_loop),
    Step("A fork bomb", fork_bomb),
    Step("A memory bomb", memory_bomb),
    Step("The network of a sandbox", network),
)
