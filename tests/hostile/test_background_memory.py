"""Deaths by memory in a session with background processes: each is put down to whose it was."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import anyio
import pytest

from sandbox_server.execution.models import RunResult
from tests.hostile.background_place import Station

TICKER = "import time\nwhile True: print('tick'); time.sleep(0.05)"


async def test_a_background_process_does_not_make_a_run_look_out_of_memory_or_time(station: Station) -> None:
    """Beyond the list."""
    burner = await station.python("while True: pass")
    quick = await station.cell("time.sleep(1)\nprint('slept')", "python-cpu")
    assert (quick.outcome, quick.stdout.text) == ("ok", "slept\n")
    assert quick.usage.cpu is not None
    assert quick.usage.cpu < 0.3
    await station.signal(burner, "KILL")
    eater = await station.python(f"input()\n{EATER}")
    await station.write(eater, b"\n")
    slept = await station.cell("time.sleep(2)\nprint('slept')")
    ended = await station.end(eater)
    assert (ended.signal, ended.oom) == ("SIGKILL", True)
    assert (slept.outcome, slept.stdout.text) == ("ok", "slept\n")


KILLS = """
def kills():
    for path in ("memory/memory.oom_control", "memory.events"):
        try:
            text = open("/sys/fs/cgroup/" + path).read()
        except OSError:
            continue
        return int(text.split("oom_kill ")[1].split()[0])
before = kills()
"""
"""`kills()`: how many the kernel has counted."""
EATER = "kept = []\nwhile True: kept.append(bytearray(1 << 20))"
GROWER = EATER.replace("while", "import time\nwhile") + "; time.sleep(0.002)"
PARENT = (
    f"import subprocess, sys\ninput()\nprint(subprocess.run([sys.executable, '-c', {GROWER!r}]).returncode)\n"
)


async def beside(station: Station, process: str, code: str, first: str = "") -> RunResult:
    """The result of a cell during which `process` is told to begin, once the cell has done `first`."""
    results = []
    ready = anyio.Event()

    async def call() -> None:
        program = f"{KILLS}{first}\nprint('ready', flush=True)\n{code}"
        results.append(await station.cell(program, wall=10, on_output=lambda _: ready.set()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await ready.wait()
        await station.write(process, b"\n")
    return results[0]


async def test_a_cell_that_ends_as_a_background_process_is_killed_for_memory_is_not_blamed(
    station: Station,
) -> None:
    """Beyond the list. At that moment the process has not even died."""
    eater = await station.python(f"input()\n{EATER}")
    cell = await beside(station, eater, "while kills() == before: pass")
    ended = await station.end(eater)
    assert (ended.signal, ended.oom) == ("SIGKILL", True)
    assert (cell.outcome, cell.stdout.text) == ("ok", "ready\n")


AFTERWARDS = {
    "ends at once": "",
    "goes on": "time.sleep(0.3)",
    "has small ones that end": "import subprocess\nfor _ in range(20): subprocess.run(['true'])",
}


@pytest.mark.parametrize("afterwards", AFTERWARDS.values(), ids=AFTERWARDS)
async def test_what_a_background_process_has_started_and_memory_ends_is_not_the_runs_death(
    station: Station, afterwards: str
) -> None:
    """Beyond the list. Nobody but a program saw how it died."""
    parent = await station.python(PARENT)
    cell = await beside(station, parent, f"while kills() == before: time.sleep(0.001)\n{afterwards}")
    assert (cell.outcome, cell.stdout.text) == ("ok", "ready\n")
    ended = await station.end(parent)
    assert (ended.exit_code, ended.oom) == (0, False)


async def test_a_runs_own_child_that_memory_ends_is_its_own_though_background_processes_end_too(
    station: Station,
) -> None:
    """Beyond the list."""
    await station.start("sh", "-c", "while :; do sleep 0.01; done")
    code = f"import subprocess\nprint(subprocess.run([sys.executable, '-c', {EATER!r}]).returncode)"
    result = await station.cell(code, wall=10)
    assert (result.outcome, result.limit, result.exit_code) == ("out_of_memory", "memory", 0)
    assert (result.stdout.text, result.limit_shared) == ("-9\n", False)


async def test_two_deaths_at_once_are_told_apart(station: Station) -> None:
    """Beyond the list."""
    parent = await station.python(PARENT)
    code = (
        f"import subprocess\nwhile kills() == before: pass\nsubprocess.run([sys.executable, '-c', {EATER!r}])"
    )
    cell = await beside(station, parent, code)
    assert (cell.outcome, cell.limit_shared) == ("out_of_memory", False)
    after = await station.cell("print('fine')")
    assert (after.outcome, after.stdout.text) == ("ok", "fine\n")


async def test_where_nobody_can_tell_whose_the_victim_was_the_result_says_so(station: Station) -> None:
    """Beyond the list. A program may make itself the less likely victim; then it is not the largest that dies."""
    parent = await station.python(PARENT)
    grow = """
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("500")
large = bytearray(120 << 20)
for at in range(0, len(large), 4096):
    large[at] = 1
"""
    cell = await beside(station, parent, "while kills() == before: pass", first=grow)
    assert (cell.outcome, cell.limit_shared, cell.exit_code) == ("out_of_memory", True, 0)


async def test_a_run_that_takes_all_memory_is_the_one_that_is_blamed(station: Station) -> None:
    """Beyond the list."""
    ticker = await station.python(TICKER)
    result = await station.cell("kept = []\nwhile True: kept.append(bytearray(1 << 20))", "python")
    assert result.outcome == "out_of_memory"
    view = await station.view(ticker)
    assert (view.running, view.oom) == (True, False)
