"""A stateful cell that is stopped keeps its state if it can, and ends in time if it can't."""

from __future__ import annotations

import anyio
import pytest

from sandbox_server.execution.models import RunResult
from tests.hostile.conftest import Run
from tests.hostile.lab import OVERSHOOT

pytestmark = pytest.mark.anyio

SET = {"python": "kept = 7", "javascript": "const kept = 7;", "bash": "kept=7"}
GET = {
    "python": "print(globals().get('kept'))",
    "javascript": "console.log(typeof kept === 'undefined' ? 'None' : kept)",
    "bash": "echo ${kept-None}",
}


async def stopped(cell: Run, language: str, code: str) -> tuple[RunResult, str]:
    """The result of a cell that its wall limit ends, and what is left of a variable then."""
    assert (await cell(SET[language], language)).outcome == "ok"
    result = await cell(code, language, wall=0.4, bare=True)
    assert (result.outcome, result.limit) == ("timeout", "wall")
    left = await cell(GET[language], language)
    return result, left.stdout.text.strip()


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "while True: pass"),
        ("python", "import time; time.sleep(60)"),
        ("python", "import asyncio\nawait asyncio.sleep(60)"),
        ("python", "import subprocess; subprocess.run(['sleep', '60'])"),
        ("javascript", "while (true) {}"),
        ("javascript", "await new Promise((resolve) => setTimeout(resolve, 60000));"),
        ("javascript", "require('http').createServer().listen('/tmp/socket'); setInterval(() => {}, 10);"),
        ("bash", "while :; do :; done"),
        ("bash", "sleep 60; kept=8; echo never"),
        ("bash", "f() { while :; do sleep 0.01 | cat; done; }; g() { f; kept=8; }; g; kept=9"),
    ],
)
async def test_a_cell_that_hears_the_interrupt_stops_there_and_what_is_said_of_its_state_is_true(
    cell: Run, language: str, code: str
) -> None:
    """How often it is in time to be kept, the benchmark counts: a busy host may make anybody late."""
    result, left = await stopped(cell, language, code)
    assert (left, result.session.state) in (("7", "kept"), ("None", "reset"))
    assert "never" not in result.stdout.text
    assert ("interrupted" in result.session.note) == (left == "7")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "while True:\n  try:\n    while True: pass\n  except KeyboardInterrupt: pass"),
        ("python", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"),
        ("python", "import signal\nsignal.signal(signal.SIGINT, lambda *_: None)\nwhile True: pass"),
        ("python", "import numpy\na = numpy.ones((3000, 3000))\nwhile True: a @ a"),
        ("javascript", "setTimeout(() => { while (true) {} }, 1);"),
        ("bash", "trap '' INT; while :; do :; done"),
    ],
)
async def test_a_cell_that_is_deaf_to_it_is_killed_in_time(cell: Run, language: str, code: str) -> None:
    result, left = await stopped(cell, language, code)
    assert left == "None"
    assert result.session.state == "reset"
    assert result.usage.wall <= 0.4 + OVERSHOOT


async def test_what_is_said_of_the_state_after_a_cancelled_call_is_true(cell: Run) -> None:
    await cell("kept = 7")
    with anyio.move_on_after(0.4) as scope:
        await cell("while True: pass", bare=True)
    assert scope.cancelled_caught
    after = await cell("print(globals().get('kept'))")
    assert (after.stdout.text, after.session.state) in (("7\n", "kept"), ("None\n", "reset"))


async def test_no_program_can_pass_an_interrupt_of_its_own_off_as_ours(cell: Run) -> None:
    result = await cell("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)")
    assert (result.outcome, result.limit, result.exit_code) == ("error", None, 130)
    assert (result.session.state, result.session.note) == ("kept", "")


async def test_an_interrupt_never_reaches_the_runner(cell: Run) -> None:
    before = await cell("kept = 7; os.kill(1, signal.SIGINT)")
    result = await cell("for _ in range(100): os.kill(1, signal.SIGINT)")
    assert (before.outcome, result.outcome, result.session.state) == ("ok", "ok", "kept")
    assert (await cell("print(kept)")).stdout.text == "7\n"


async def test_an_interrupt_does_not_hit_the_cell_after(cell: Run) -> None:
    """A cell that ends on its own just as it is interrupted."""
    await cell("kept = 7")
    for wall in (0.100, 0.101, 0.102, 0.104):
        await cell("import time; time.sleep(0.1)", wall=wall, bare=True)
        after = await cell("print(kept)")
        assert (after.outcome, after.stdout.text) == ("ok", "7\n")
