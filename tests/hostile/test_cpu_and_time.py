"""Programs that take all the time or all the CPU they can get. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import time

import anyio
import pytest

from tests.hostile.conftest import Run
from tests.hostile.lab import CPU_LIMIT, CPU_OVERSHOOT, Heartbeat, Lab, on_time

ENDLESS = {
    "python": ("python", "while True: pass"),
    "javascript": ("javascript", "for (;;);"),
    "bash": ("bash", "while :; do :; done"),
    "monotonic clock": ("python", "end = time.monotonic() + 10\nwhile time.monotonic() < end: pass"),
}


@pytest.mark.parametrize(("language", "code"), ENDLESS.values(), ids=ENDLESS)
async def test_an_endless_loop_ends_on_time_and_the_server_stays_responsive(
    run: Run, language: str, code: str
) -> None:
    """1, 8."""
    async with Heartbeat.watch() as heartbeat:
        result = await on_time(run, code, language, wall=0.6)
    assert result.signal == "SIGKILL"
    assert heartbeat.worst < 0.5


async def test_a_program_that_only_sleeps_ends_on_time(run: Run, lab: Lab, mark: str) -> None:
    """2."""
    seen: list[int] = []
    code = f"rename({mark!r})\nprint('sleeps', flush=True)\ntime.sleep(1000)"
    result = await on_time(run, code, wall=0.6, on_output=lambda _: seen.append(len(lab.named(mark))))
    assert seen[-1] == 1  # or the last assertion could never fail
    assert result.stdout.text == "sleeps\n"
    assert lab.named(mark) == []


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python-cpu", "if os.fork() == 0:\n    while True: pass\ntime.sleep(30)"),
        ("bash-cpu", "(while :; do :; done) & sleep 30"),
    ],
    ids=["python", "bash"],
)
async def test_cpu_time_of_children_counts(run: Run, language: str, code: str) -> None:
    """3."""
    result = await run(code, language, wall=10)
    assert (result.outcome, result.limit) == ("timeout", "cpu")
    assert result.usage.cpu is not None
    assert CPU_LIMIT <= result.usage.cpu <= CPU_LIMIT + CPU_OVERSHOOT
    assert result.usage.wall < 10


async def test_a_run_ends_with_its_main_process_even_if_a_child_holds_its_pipes(
    run: Run, lab: Lab, mark: str
) -> None:
    """4."""
    code = f"""
if os.fork() == 0:
    rename({mark!r})
    time.sleep(1000)
print("parent done")
"""
    result = await run(code, wall=10)
    assert (result.outcome, result.exit_code, result.stdout.text) == ("ok", 0, "parent done\n")
    assert result.usage.wall < 5
    assert lab.named(mark) == []


async def test_many_burning_processes_get_one_core_and_leave_their_neighbour_alone(
    run: Run, cell: Run
) -> None:
    """5."""
    await cell("ready = True")
    burning = anyio.Event()
    burnt = []

    async def burn() -> None:
        code = "for _ in range(4): os.fork()\nprint(1, flush=True)\nwhile True: pass"
        burnt.append(await on_time(run, code, wall=1.5, on_output=lambda _: burning.set()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(burn)
        await burning.wait()
        latencies = []
        for _ in range(5):
            begin = time.monotonic()
            assert (await cell("print(ready)")).stdout.text == "True\n"
            latencies.append(time.monotonic() - begin)
    assert 0.3 < burnt[0].usage.cpu <= 1.5 * 1.2 + CPU_OVERSHOOT
    assert sorted(latencies)[2] < 0.3


async def test_a_program_that_ignores_and_blocks_every_signal_ends_on_time(run: Run) -> None:
    """6."""
    code = """
for number in set(range(1, 65)) - {9, 19, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: time.sleep(1)
"""
    await on_time(run, code, wall=0.5)


@pytest.mark.parametrize("ending", ["returns", "runs on"])
async def test_a_daemon_does_not_outlive_its_run(run: Run, lab: Lab, mark: str, ending: str) -> None:
    """7."""
    code = f"""
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        rename({mark!r})
        os.write(tell, b"x")
        os.closerange(0, 256)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: time.sleep(1)
    os._exit(0)
os.read(ready, 1)
print("daemon runs", flush=True)
if {ending!r} == "runs on":
    time.sleep(100)
"""
    seen: list[int] = []
    result = await run(code, wall=0.7, on_output=lambda _: seen.append(len(lab.named(mark))))
    assert result.outcome == ("ok" if ending == "returns" else "timeout")
    assert result.stdout.text == "daemon runs\n"
    assert lab.named(mark) == []
    if ending == "runs on":
        assert seen == [1]  # or the assertion above could never fail


async def test_the_clock_cannot_be_set_and_the_time_zone_changes_nothing(run: Run) -> None:
    """12."""
    code = """
print(attempt(time.clock_settime, time.CLOCK_REALTIME, 0))
buffer = ctypes.create_string_buffer(256)
print(call("settimeofday", buffer, None), call("adjtimex", b"\\xff" * 256))
os.environ["TZ"] = "Pacific/Kiritimati"
time.tzset()
print("waits", flush=True)
time.sleep(100)
"""
    result = await on_time(run, code, wall=0.6)
    assert result.stdout.text == "EPERM\nEPERM EPERM\nwaits\n"


UNINTERRUPTIBLE = {
    "regular expression": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "power": "10 ** 10 ** 10",
    "digits": "sys.set_int_max_str_digits(0)\nstr(7 ** 5_000_000)",
    "repr": "class Endless:\n    def __repr__(self):\n        while True: pass\nEndless()",
    "exception": "class Endless(Exception):\n    def __str__(self):\n        while True: pass\nraise Endless",
    "vfork": "if libc.vfork() == 0: time.sleep(1000)",
}


@pytest.mark.parametrize("code", UNINTERRUPTIBLE.values(), ids=UNINTERRUPTIBLE)
async def test_work_that_never_checks_for_signals_ends_on_time_and_the_session_goes_on(
    cell: Run, code: str
) -> None:
    """13."""
    await on_time(cell, code, wall=0.4)
    after = await cell("print('alive')")
    assert (after.stdout.text, after.session.state) == ("alive\n", "kept")


DEEP = {
    "source": "(" * 50_000 + ")" * 50_000,
    "operators": "-" * 200_000 + "1",
    "repr": "x = []\nfor _ in range(10 ** 6): x = [x]\nx",
    "exceptions": "error = None\nfor _ in range(3000):\n    e = ValueError(); e.__cause__ = error; error = e\nraise error",
}


@pytest.mark.parametrize("code", DEEP.values(), ids=DEEP)
async def test_deep_nesting_fails_the_program_and_nothing_else(cell: Run, code: str) -> None:
    """13."""
    result = await cell(code, wall=3)
    assert result.outcome in ("error", "signal")
    assert (await cell("print('alive')")).stdout.text == "alive\n"
