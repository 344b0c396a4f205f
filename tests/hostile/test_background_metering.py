"""CPU time of background processes: what is charged is what they have used, whatever runs beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.hostile.background_place import Station, open_station
from tests.hostile.lab import Lab

LITTLE = 0.3
"""Seconds that starting a process and looking at it may take."""


@pytest.fixture
async def metered(lab: Lab) -> AsyncIterator[Station]:
    """A session that alone is charged for."""
    await lab.at_rest()
    lab.charged.clear()
    async with open_station(lab) as station:
        yield station


async def during(station: Station, code: str) -> None:
    """Start a process that sleeps while a cell runs `code`, once that says something."""
    ready = anyio.Event()

    async def call() -> None:
        result = await station.cell(code, wall=10, on_output=lambda _: ready.set())
        assert result.outcome == "ok"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await ready.wait()
        process = await station.start("sleep", "1000")
    await station.view(process)


async def test_a_process_that_is_started_during_a_run_gives_nothing_of_it_back(
    metered: Station, lab: Lab
) -> None:
    """Beyond the list. What the run had used before that is the run's, and paid for with it."""
    await during(metered, "while time.process_time() < 1: pass\nprint('ready', flush=True)\ntime.sleep(0.3)")
    assert min(lab.charged) >= 0
    assert sum(lab.charged) < LITTLE


async def test_a_run_that_goes_on_is_not_its_neighbours(metered: Station, lab: Lab) -> None:
    """Beyond the list."""
    await during(metered, "print('ready', flush=True)\nwhile time.process_time() < 1: pass")
    assert sum(lab.charged) < LITTLE


async def test_a_run_that_was_cancelled_is_not_its_neighbours(metered: Station, lab: Lab) -> None:
    """Beyond the list. Nobody gets its result, and it is paid for as far as its clock says."""
    process = await metered.start("sleep", "1000")
    ready = anyio.Event()

    async def call() -> None:
        await metered.cell("print('ready', flush=True)\nwhile True: pass", on_output=lambda _: ready.set())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await ready.wait()
        burner = await metered.python("import time\nwhile time.process_time() < 1: pass\nprint('done')")
        await metered.says(burner, "done")
        tasks.cancel_scope.cancel()
    await metered.view(process)
    assert 0.9 < sum(lab.charged) < 1 + LITTLE


async def test_a_process_that_slept_costs_nothing_when_its_session_ends(lab: Lab) -> None:
    """Beyond the list. It is looked at once more before the sandbox goes."""
    await lab.at_rest()
    lab.charged.clear()
    async with open_station(lab) as station:
        await station.start("sleep", "1000")
        await station.cell("time.sleep(1)")
    await lab.at_rest()
    assert sum(lab.charged) < LITTLE


async def test_what_a_process_used_last_is_charged_when_its_session_ends(lab: Lab) -> None:
    """Beyond the list."""
    await lab.at_rest()
    lab.charged.clear()
    async with open_station(lab) as station:
        burner = await station.python("import time\ninput()\nwhile time.process_time() < 0.5: pass")
        await station.write(burner, b"\n")
        await station.cell("time.sleep(1.2)")
    await lab.at_rest()
    assert 0.4 < sum(lab.charged) < 0.5 + LITTLE
