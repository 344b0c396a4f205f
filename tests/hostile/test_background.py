"""Background processes are no way out of a run's end, and nothing that a program does makes them one."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import pytest

from sandbox_server.errors import LimitExceeded, NotFound
from sandbox_server.execution import process_models as models
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import SessionRequest
from tests.hostile.background_place import Station, ignore, open_station
from tests.hostile.conftest import Run
from tests.hostile.lab import LIMITS, Lab, on_time

TICKER = "import time\nwhile True: print('tick'); time.sleep(0.05)"

SURVIVORS = {
    "a daemon": "os.setsid()\nif os.fork(): os._exit(0)",
    "ignores what can be ignored": "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 13, 14, 15, 17)]",
    "adopts orphans itself": "libc.prctl(36, 1, 0, 0, 0)\nif os.fork() == 0 and os.fork() == 0: rename({mark!r}); time.sleep(1000)",
    "a sibling of its parent": """
clone = 56 if os.uname().machine == "x86_64" else 220
libc.syscall(clone, 0x8000 | 17, 0, 0, 0, 0)
""",
}


@pytest.mark.parametrize("code", SURVIVORS.values(), ids=SURVIVORS)
@pytest.mark.parametrize("language", ["python", "sh"])
async def test_what_a_run_leaves_behind_dies_though_a_background_process_lives(
    station: Station, lab: Lab, mark: str, code: str, language: str
) -> None:
    """Beyond the list."""
    ticker = await station.python(TICKER)
    program = f"""
if os.fork() == 0:
    rename({mark!r})
    {code.format(mark=mark).strip().replace(chr(10), chr(10) + "    ")}
    time.sleep(1000)
time.sleep(0.2)
print("left")
"""
    if language == "sh":
        program = f"cat > attack.py <<'END'\nimport ctypes, os, signal, time\nlibc = ctypes.CDLL(None)\ndef rename(name): libc.prctl(15, name.encode(), 0, 0, 0)\n{program}\nEND\npython3 attack.py"
    result = await station.cell(program, language)
    assert (result.outcome, result.stdout.text) == ("ok", "left\n")
    assert lab.named(mark) == []
    assert (await station.view(ticker)).running
    written = (await station.view(ticker)).written
    await station.says(ticker, "tick", written)


async def test_a_process_that_forks_and_ends_all_the_time_does_not_outrun_the_end(
    station: Station, lab: Lab, mark: str
) -> None:
    """Beyond the list. Looking at it takes longer than it lives: only stopping everything at once gets it."""
    ticker = await station.python(TICKER)
    code = f"""
def hop():
    try: return os.fork()
    except OSError: return None
for _ in range(20):
    if hop() == 0:
        rename({mark!r})
        while True:
            if hop(): os._exit(0)
time.sleep(0.2)
"""
    for _ in range(3):
        result = await station.cell(code)
        assert (result.outcome, lab.named(mark)) == ("ok", [])
    assert (await station.view(ticker)).running
    await station.says(ticker, "tick", (await station.view(ticker)).written)


async def test_a_fork_bomb_in_a_cell_ends_on_time_and_a_background_process_goes_on(
    station: Station, lab: Lab, mark: str
) -> None:
    """Beyond the list."""
    ticker = await station.python(TICKER)
    bomb = f"rename({mark!r})\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    await on_time(station.cell, bomb, wall=0.8)
    # If the interpreter obeyed in time it is kept, and stands still.
    assert [process.state for process in lab.named(mark)] in ([], ["T"])
    await station.says(ticker, "tick", (await station.view(ticker)).written)
    after = await station.cell("import subprocess; print(subprocess.run(['true']).returncode)")
    assert (after.stdout.text, after.session.state) == ("0\n", "kept")


BOMBS = {
    "grows": "while True:\n    try: os.fork()\n    except OSError: pass",
    "hops": "while True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_a_fork_bomb_in_the_background_is_bounded_and_can_be_killed(
    station: Station, lab: Lab, mark: str, bomb: str
) -> None:
    """Beyond the list."""
    await station.cell("x = 42")
    other = await station.python(TICKER)
    process = await station.python(
        f"import ctypes, os\nctypes.CDLL(None).prctl(15, {mark.encode()!r}, 0, 0, 0)\n"
        f"for _ in range(3):\n    if os.fork() == 0: break\nelse:\n    import time; time.sleep(1000)\n{bomb}"
    )
    await lab.until(lambda: len(lab.named(mark)) > 2)
    assert len(lab.named(mark)) <= LIMITS.pids
    ended = await station.signal(process, "KILL")
    assert (ended.running, ended.signal) == (False, "SIGKILL")
    assert lab.named(mark) == []
    assert (await station.view(other)).running
    after = await station.cell("print(x)")
    assert (after.stdout.text, after.session.state) == ("42\n", "kept")


async def test_a_run_that_finds_no_room_beside_a_bomb_is_refused_and_loses_nothing(
    station: Station, lab: Lab, mark: str
) -> None:
    """Beyond the list."""
    await station.cell("x = 42")
    await station.cell("y=43", "python-bash")
    process = await station.python(
        f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, {mark.encode()!r}, 0, 0, 0)\n"
        "while True:\n    try:\n        if os.fork() == 0: time.sleep(1000)\n    except OSError: print('full'); time.sleep(1000)"
    )
    await station.says(process, "full")
    with pytest.raises(LimitExceeded, match="background processes"):
        await station.cell("true", "sh")
    with pytest.raises(LimitExceeded, match="background processes"):
        await station.cell("echo $y", "python-bash")
    with pytest.raises(LimitExceeded, match="processes"):
        await station.python("pass")
    assert (await station.cell("print(x)")).stdout.text == "42\n"  # its interpreter is there already
    await station.signal(process, "KILL")
    assert (await station.cell("echo $y", "python-bash")).stdout.text == "43\n"


async def test_a_process_that_kills_its_keeper_dies_with_all_it_has_started(
    station: Station, lab: Lab, mark: str
) -> None:
    """Beyond the list."""
    await station.cell("x = 42")
    code = f"""
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(15, {mark.encode()!r}, 0, 0, 0)
if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
input()
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(1000)
"""
    process = await station.python(code)
    await lab.until(lambda: len(lab.named(mark)) == 2)
    await station.write(process, b"\n")
    ended = await station.end(process)
    assert (ended.running, ended.exit_code, ended.signal) == (False, None, None)  # nobody can know
    assert lab.named(mark) == []
    after = await station.cell("print(x)")
    assert (after.stdout.text, after.session.state) == ("42\n", "kept")


async def test_a_program_that_kills_a_keeper_wins_nothing(station: Station, lab: Lab, mark: str) -> None:
    """Beyond the list."""
    process = await station.python(
        f"import ctypes, time\nctypes.CDLL(None).prctl(15, {mark.encode()!r}, 0, 0, 0)\nprint('up')\ntime.sleep(1000)"
    )
    await station.says(process, "up")
    attack = f"""
for pid in filter(str.isdigit, os.listdir("/proc")):
    if open(f"/proc/{{pid}}/comm").read().strip() == {mark!r}:
        keeper = int(open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[1])
print(attempt(open, f"/proc/{{keeper}}/mem"), attempt(os.listdir, f"/proc/{{keeper}}/fd"))
os.kill(keeper, signal.SIGSTOP)
os.kill(keeper, signal.SIGKILL)
"""
    result = await station.cell(attack)
    assert (result.outcome, result.stdout.text) == ("ok", "EACCES EACCES\n")
    # The keeper may die of it a moment after the run has ended; with it goes what it kept.
    assert not (await station.end(process)).running
    assert lab.named(mark) == []


async def test_a_keeper_that_was_stopped_still_tells_of_the_end(station: Station) -> None:
    """Beyond the list."""
    code = "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\nprint('stopped')"
    assert (await station.end(await station.python(code))).exit_code == 0


async def test_a_flood_is_bounded_counted_and_holds_nobody_up(station: Station, lab: Lab) -> None:
    """Beyond the list."""
    flood = await station.start("sh", "-c", "while :; do echo $((n = n + 1)); done & yes out & yes err >&2")
    before = lab.memory()
    result = await station.cell("print(sum(range(10 ** 6)))")
    assert result.outcome == "ok"
    assert result.usage.wall < 2
    answer = await station.poll(flood, 0, limit=models.MAX_POLL, wait=5)
    assert answer.output is not None
    assert len(answer.output.stdout) + len(answer.output.stderr) <= models.MAX_POLL
    while (view := await station.view(flood)).written < 4 << 20:
        await station.poll(flood, view.written, wait=1)
    late = await station.poll(flood, 0)
    assert late.output is not None
    assert late.output.missed > 1 << 20
    assert late.output.missed + len(late.output.stdout) + len(late.output.stderr) == late.output.cursor
    assert lab.memory() - before < 32 << 20
    await station.signal(flood, "KILL")


async def test_a_process_that_wakes_a_resting_interpreter_costs_its_state_and_it_is_told(
    station: Station,
) -> None:
    """Beyond the list. It can't make the interpreter work between calls, where nobody counts."""
    await station.cell(
        "import threading, time\nx = 42\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    )
    code = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) not in (1, os.getpid(), os.getppid()):
        os.kill(int(pid), signal.SIGCONT)
print("woken")
"""
    await station.says(await station.python(code), "woken")
    after = await station.cell("print('x' in globals())")
    assert (after.stdout.text, after.session.state) == ("False\n", "reset")


async def test_another_principals_processes_do_not_exist(lab: Lab) -> None:
    """Beyond the list."""
    desk, processes = lab.manager.sessions, lab.manager.processes
    alice, mallory = Caller("alice"), Caller("mallory")
    view = await desk.create(SessionRequest(), caller=alice, on_event=ignore)
    handle = view.info.id or ""
    start = models.StartProcess(("sleep", "1000"))
    process = (await processes.perform(start, caller=alice, session=handle, on_event=ignore)).processes[0].id
    errors = []
    for session in (handle, "0" * 32):
        for operation in (
            start,
            models.ListProcesses(),
            models.PollProcess(process),
            models.SignalProcess(process, "KILL"),
        ):
            with pytest.raises(NotFound) as refused:
                await processes.perform(operation, caller=mallory, session=session, on_event=ignore)
            errors.append(str(refused.value))
    assert len(set(errors)) == 1
    own = await desk.create(SessionRequest(), caller=mallory, on_event=ignore)
    with pytest.raises(NotFound, match="no such process"):
        await processes.perform(
            models.PollProcess(process), caller=mallory, session=own.info.id, on_event=ignore
        )
    listed = await processes.perform(models.ListProcesses(), caller=alice, session=handle, on_event=ignore)
    assert listed.processes[0].running
    desk.close(handle, caller=alice)
    desk.close(own.info.id or "", caller=mallory)


async def test_a_sessions_end_leaves_nothing(lab: Lab, mark: str) -> None:
    """Beyond the list."""
    async with open_station(lab) as station:
        code = f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, {mark.encode()!r}, 0, 0, 0)\nos.fork()\nprint('up')\ntime.sleep(1000)"
        await station.says(await station.python(code), "up")
        assert lab.named(mark) != []
    await lab.until(lambda: lab.named(mark) == [])


async def test_only_so_many_run_at_once_and_only_so_many_are_remembered(station: Station) -> None:
    """Beyond the list."""
    started = [await station.start("sleep", "1000") for _ in range(16)]
    with pytest.raises(LimitExceeded, match="16"):
        await station.start("true")
    for process in started:
        await station.signal(process, "KILL")
    for _ in range(20):
        await station.end(await station.start("true"))
    listed = (await station.do(models.ListProcesses())).processes
    assert len(listed) <= 17
    assert (await station.cell("print('alive')")).stdout.text == "alive\n"


async def test_a_background_process_can_not_end_the_session_it_lives_in(station: Station, run: Run) -> None:
    """Beyond the list."""
    await station.cell("x = 42")
    code = "import os, signal\nos.kill(-1, signal.SIGKILL)"
    await station.end(await station.python(code))
    after = await station.cell("print('alive')")
    assert (after.outcome, after.stdout.text) == ("ok", "alive\n")
    assert after.session.state == "reset"  # its interpreter was among those
