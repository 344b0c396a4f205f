"""How a Python program begins and ends, in real sandboxes: as with its own interpreter."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.hostile.lab import Lab, open_lab


@pytest.fixture(scope="module")
async def lab(anyio_backend: str) -> AsyncIterator[Lab]:
    async with open_lab() as lab:
        yield lab


LATE = {
    "a file that nobody closed": ("w = open('/dev/stdout', 'w')\nw.write('late')", "late"),
    "a binary file": ("w = open('/dev/stdout', 'wb')\nw.write(b'late')", "late"),
    "a file in a cycle": ("cycle = [open('/dev/stdout', 'w')]\ncycle.append(cycle)\nx = cycle[0].write('late')", "late"),
    "a file that a module keeps": ("import json\njson.w = open('/dev/stdout', 'w')\nx = json.w.write('late')", "late"),
    "__del__": ("class A:\n    def __del__(self): print('bye', name)\nname = 'you'\na = A()", "bye you\n"),
    "__del__ after an exception": ("class A:\n    def __del__(self): print('bye')\na = A()\n1 / 0", "bye\n"),
    "a thread": ("import threading, time\ndef f(): time.sleep(0.05); print('late')\nthreading.Thread(target=f).start()", "late\n"),
    "atexit": ("import atexit\nw = open('/dev/stdout', 'w')\natexit.register(w.write, 'late')", "late"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "output"), LATE.values(), ids=LATE)
async def test_what_a_program_leaves_open_is_written_as_it_ends(lab: Lab, code: str, output: str) -> None:
    result = await lab.run(code, bare=True)
    assert result.stdout.text == output


async def test_a_daemon_thread_sees_its_names_to_the_end(lab: Lab) -> None:
    code = """
import threading, time
def work():
    while True: time.sleep(0); names[0] += 1
names = [0]
for _ in range(8): threading.Thread(target=work, daemon=True).start()
class Slow:
    def __del__(self): time.sleep(0.05)
Slow.me = Slow()
"""
    result = await lab.run(code, bare=True)
    assert (result.outcome, result.stderr.text) == ("ok", "")


@pytest.mark.parametrize("close", ["sys.stderr.close()", "sys.stderr = None", "import os; os.close(2)"])
async def test_exit_with_a_message_nobody_can_read_is_exit_code_1_and_keeps_the_session(
    lab: Lab, close: str
) -> None:
    connection = uuid4().hex
    for where in (None, connection):
        result = await lab.run(f"import sys; x = 1; {close}; sys.exit('gone')", connection=where)
        assert (result.outcome, result.exit_code) == ("error", 1)
    after = await lab.run("print(x)", connection=connection)
    assert (after.stdout.text, after.session.state) == ("1\n", "kept")
    await lab.manager.close_connection(connection)


async def test_a_syntax_error_shows_the_programs_line_and_none_of_ours(lab: Lab) -> None:
    result = await lab.run("x = (1,\nprint(", bare=True)
    assert result.exit_code == 1
    assert result.stderr.text.startswith('  File "main.py", line ')
    assert "ast.py" not in result.stderr.text


HOOKS = {
    "its own": ("sys.excepthook = lambda kind, error, trace: print('hook', kind.__name__, trace.tb_lineno)", 1, "hook ZeroDivisionError 3\n"),
    "exits": ("sys.excepthook = lambda *_: sys.exit(7)", 7, ""),
}  # fmt: skip


@pytest.mark.parametrize(("hook", "exit_code", "output"), HOOKS.values(), ids=HOOKS)
async def test_the_programs_own_hook_sees_its_exception(
    lab: Lab, hook: str, exit_code: int, output: str
) -> None:
    result = await lab.run(f"import sys\n{hook}\n1 / 0", bare=True)
    assert (result.exit_code, result.stdout.text, result.stderr.text) == (exit_code, output, "")


async def test_a_hook_that_fails_hides_neither_exception(lab: Lab) -> None:
    result = await lab.run("import sys\nsys.excepthook = lambda *_: [][1]\n1 / 0", bare=True)
    assert "IndexError" in result.stderr.text
    assert "ZeroDivisionError" in result.stderr.text
    assert "/opt/sandbox" not in result.stderr.text


@pytest.mark.parametrize(
    ("language", "code"),
    [("python", "print('hi')"), ("bash", "echo hi"), ("javascript", "console.log('hi')")],
)
async def test_a_byte_order_mark_is_no_code(lab: Lab, language: str, code: str) -> None:
    result = await lab.run("\ufeff" + code, language, bare=True)
    assert (result.outcome, result.stdout.text) == ("ok", "hi\n")
