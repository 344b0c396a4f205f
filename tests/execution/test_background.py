"""Background processes in real sandboxes: what a caller starts, hears, says and ends."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from sandbox_server.errors import Busy, InvalidRequest, NotFound
from sandbox_server.execution import process_models as models
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import SessionRequest
from sandbox_server.execution.process_models import Wanted
from sandbox_server.execution.slots import WAITING
from tests.hostile.background_place import Station, ignore, open_station
from tests.hostile.lab import Lab, on_time, open_lab

TICKER = "import time\nwhile True: print('tick'); time.sleep(0.05)"


@pytest.fixture(scope="module")
async def lab(anyio_backend: str) -> AsyncIterator[Lab]:
    async with open_lab() as lab:
        yield lab


@pytest.fixture
async def station(lab: Lab) -> AsyncIterator[Station]:
    async with open_station(lab) as station:
        yield station


async def test_a_server_in_the_background_is_reached_from_later_cells(station: Station) -> None:
    await station.cell("open('hello.txt', 'w').write('hello from the background')")
    server = await station.start("python3", "-u", "-m", "http.server", "8000", "--bind", "127.0.0.1")
    await station.says(server, "Serving HTTP")
    code = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000/hello.txt').read().decode())"
    for _ in range(2):
        result = await station.cell(code)
        assert (result.outcome, result.stdout.text) == ("ok", "hello from the background\n")
    assert "GET /hello.txt" in await station.says(server, "GET")
    ended = await station.signal(server, "TERM")
    assert (ended.running, ended.signal) == (False, "SIGTERM")
    assert "refused" in (await station.cell(code)).stderr.text


async def test_it_starts_in_the_workspace_with_its_arguments_and_environment(station: Station) -> None:
    await station.cell("import os; os.mkdir('inner')")
    code = "import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['GREETING'])"
    process = await station.start(
        "python3", "-c", code, "a b", "$HOME", cwd="inner", env=(("GREETING", "hi"),)
    )
    assert await station.says(process, "hi") == "/workspace/inner ['a b', '$HOME'] hi\n"
    assert (await station.end(process)).exit_code == 0


async def test_a_command_that_is_not_there_says_so(station: Station) -> None:
    process = await station.start("nosuch")
    assert (await station.end(process)).exit_code == 127
    assert await station.says(process, "nosuch") == "sandbox: nosuch: No such file or directory\n"
    elsewhere = await station.start("true", cwd="nowhere")
    assert (await station.end(elsewhere)).exit_code == 127
    with pytest.raises(InvalidRequest, match="/workspace"):
        await station.start("true", cwd="/etc")


async def test_it_survives_timeouts_interrupts_and_interpreters_that_die(station: Station) -> None:
    ticker = await station.python(TICKER)
    ends = {
        "while True: pass": {"kept", "reset"},  # by whether it ends within 60 ms, which a busy host decides
        "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass": {"reset"},
    }
    for code, states in ends.items():
        result = await on_time(station.cell, code, wall=0.4)
        assert result.session.state in states
    assert (await station.cell("import os; os.kill(os.getpid(), 9)")).session.state == "reset"
    with anyio.move_on_after(0.3):
        await station.cell("import time; time.sleep(100)")
    await station.says(ticker, "tick", (await station.view(ticker)).written)
    assert (await station.cell("print('alive')")).stdout.text == "alive\n"


async def test_starting_polling_and_ending_do_not_wait_for_a_cell(station: Station) -> None:
    await station.cell("x = 42")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(station.cell, "import time; time.sleep(100)")
        ticker = await station.python(TICKER)
        await station.says(ticker, "tick")
        assert (await station.signal(ticker, "KILL")).signal == "SIGKILL"
        tasks.cancel_scope.cancel()
    assert (await station.cell("print(x)")).stdout.text == "42\n"


async def test_a_cursor_gives_the_same_again_and_without_one_each_byte_comes_once(station: Station) -> None:
    process = await station.start("sh", "-c", "echo one; echo two >&2; read line; echo three")
    await station.says(process, "two")
    assert await station.says(process, "two") == "one\ntwo\n"
    await station.write(process, b"\n")
    await station.end(process)
    untold = await station.poll(process)
    assert untold.output is not None
    assert (untold.output.stdout, untold.output.cursor) == (b"", 14)  # `end` was told
    again = await station.poll(process, 8)
    assert again.output is not None
    assert (again.output.stdout, again.output.stderr, again.output.missed) == (b"three\n", b"", 0)


async def test_pages_end_where_characters_end(station: Station) -> None:
    text = "äöü€😀" * 40
    process = await station.python(f"print({text!r}, end='')")
    await station.end(process)
    cursor, pieces = 0, []
    while True:
        output = (await station.poll(process, cursor, limit=7)).output
        assert output is not None
        if output.cursor == cursor:
            break
        pieces.append(output.stdout.decode())
        cursor = output.cursor
    assert "".join(pieces) == text


async def test_a_poll_waits_for_output_and_no_longer_than_it_was_told(station: Station) -> None:
    process = await station.start("cat")
    with anyio.fail_after(5):
        silent = await station.poll(process, wait=0.1)
    assert silent.output is not None
    assert (silent.output.stdout, silent.processes[0].running) == (b"", True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(station.says, process, "hello")
        await station.write(process, b"hello\n")


async def test_more_waits_than_there_are_places_do_not_keep_files_or_code_waiting(station: Station) -> None:
    process = await station.start("cat")
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(lambda: station.poll(process, wait=20))
        with anyio.fail_after(10):
            assert (await station.cell("print('alive')")).stdout.text == "alive\n"
        tasks.cancel_scope.cancel()


async def test_as_many_waits_as_may_be_keep_no_other_operation_waiting(station: Station) -> None:
    process = await station.start("cat")
    async with anyio.create_task_group() as tasks:
        for _ in range(WAITING):
            tasks.start_soon(lambda: station.poll(process, 0, wait=30))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            with pytest.raises(Busy, match=f"{WAITING} calls wait") as busy:
                await station.poll(process, 0, wait=30)
            assert busy.value.retry_after > 0
            assert (await station.view(process)).running
            other = await station.start("echo", "hi", wait=30)
            assert other in [view.id for view in (await station.do(models.ListProcesses())).processes]
            silent = await station.poll(process, 0)
            assert (silent.processes[0].running, silent.processes[0].written) == (True, 0)
            assert (await station.signal(process, "KILL")).id == process  # and so all of them have an answer
    assert not (await station.end(process)).running


async def test_who_starts_while_another_is_ended_is_not_left_standing(station: Station) -> None:
    """What ends slowly is ended at a standstill of all; a fork that is under way then has a stopped child."""

    async def start(end: bool) -> None:
        rest = "exec sleep 1000" if end else "echo hi"
        process = await station.start("sh", "-c", f"head -c 300000 /dev/zero; {rest}")
        if end:
            await station.signal(process, "KILL")
        else:
            await station.end(process)

    for _ in range(40):
        async with anyio.create_task_group() as tasks:
            for index in range(6):
                tasks.start_soon(start, bool(index % 2))


async def test_what_is_born_while_it_is_looked_at_lives(station: Station) -> None:
    """Each look at a session asks who does not belong there; who was born meanwhile was taken for a stranger."""
    await station.cell("x = 42")
    code = "for n in {1..3000}; do (:) || echo killed; done; echo done"
    process = await station.start("bash", "-c", code)
    while (await station.view(process)).running:
        pass
    assert await station.says(process, "done") == "done\n"


async def test_stdin_is_written_and_closed(station: Station) -> None:
    process = await station.start("sort")
    await station.write(process, b"b\n")
    await station.write(process, b"a\n", close=True)
    assert (await station.end(process)).exit_code == 0
    assert await station.says(process, "b") == "a\nb\n"
    with pytest.raises(InvalidRequest, match="stdin"):
        await station.write(process, b"c\n")


async def test_who_does_not_read_is_sent_no_more_than_waits_for_it(station: Station) -> None:
    process = await station.start("sleep", "1000")
    full = b"x" * models.MAX_STDIN
    for _ in range(2):  # one fills the pipe, one waits
        await station.write(process, full)
    with pytest.raises(Busy, match="does not read"):
        await station.write(process, full)
    assert 0 < ((await station.view(process)).stdin or 0) <= models.MAX_STDIN
    assert (await station.cell("print('alive')")).stdout.text == "alive\n"


async def test_signals_reach_the_whole_group(station: Station) -> None:
    code = "trap 'echo got usr1' USR1; (trap 'echo child too; exit' USR1; echo up; while :; do sleep 0.05; done) & while :; do sleep 0.05; done"
    process = await station.start("bash", "-c", code)
    await station.says(process, "up")
    assert (await station.signal(process, "USR1", wait=0)).running
    said = await station.says(process, "child too")
    await station.says(process, "got usr1")
    assert "up" in said
    await station.signal(process, "KILL")
    with pytest.raises(InvalidRequest, match="ended"):
        await station.signal(process, "TERM")


async def test_when_the_command_ends_all_that_it_has_started_ends(station: Station, lab: Lab) -> None:
    code = "import ctypes, os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    ctypes.CDLL(None).prctl(15, b'orphan', 0, 0, 0)\n    time.sleep(1000)\ntime.sleep(0.3)\nprint('bye')"
    process = await station.python(code)
    await lab.until(lambda: lab.named("orphan") != [])
    assert (await station.end(process)).exit_code == 0
    assert lab.named("orphan") == []
    assert await station.says(process, "bye") == "bye\n"


async def test_zombies_do_not_use_up_the_session(station: Station) -> None:
    """Daemons that a server makes are reaped, though it does not do so itself."""
    code = "import os, time\nfor n in range(150):\n    if os.fork() == 0:\n        if os.fork() == 0: os._exit(0)\n        os._exit(0)\n    os.wait()\nprint('done')\ntime.sleep(1000)"
    await station.says(await station.python(code), "done")
    assert (
        await station.cell("import subprocess; print(subprocess.run(['true']).returncode)")
    ).stdout.text == "0\n"


async def test_a_reset_of_either_kind_ends_them_and_says_so(lab: Lab) -> None:
    desk, caller = lab.manager.sessions, Caller()
    handle = (await desk.create(SessionRequest(), caller=caller, on_event=ignore)).info.id or ""

    async def do(operation: models.ProcessOperation) -> models.ProcessAnswer:
        return await lab.manager.processes.perform(operation, caller=caller, session=handle, on_event=ignore)

    for what, state in (("interpreter", "reset"), ("everything", "lost")):
        process = (await do(models.StartProcess(("sleep", "1000")))).processes[0].id
        view = await desk.reset(handle, what, caller=caller, on_event=ignore)  # type: ignore[arg-type]
        assert view.info.state == state
        if what == "interpreter":
            assert "processes were ended" in view.info.note
        with pytest.raises(NotFound):
            await do(models.PollProcess(process))
        assert (await do(models.ListProcesses())).processes == ()
    desk.close(handle, caller=caller)
    with pytest.raises(NotFound, match="closed"):
        await do(models.ListProcesses())


async def test_without_a_connection_a_start_makes_a_session_and_tells_it(lab: Lab) -> None:
    answer = await lab.manager.processes.perform(
        models.StartProcess(("echo", "hi"), wanted=Wanted(wait=5)), caller=Caller(), on_event=ignore
    )
    handle = answer.session.id
    assert handle
    assert answer.output is not None
    assert answer.output.stdout == b"hi\n"
    with pytest.raises(InvalidRequest, match="session"):
        await lab.manager.processes.perform(
            models.PollProcess(answer.processes[0].id), caller=Caller(), on_event=ignore
        )
    lab.manager.sessions.close(handle, caller=Caller())


async def test_a_session_that_a_failed_start_has_made_ends_with_it(lab: Lab) -> None:
    caller = Caller("erring")
    with pytest.raises(InvalidRequest):
        await lab.manager.processes.perform(
            models.StartProcess(("true",), cwd="/etc"), caller=caller, on_event=ignore
        )
    assert lab.manager.sessions.list(caller=caller) == ()


async def test_looking_for_processes_makes_no_session(lab: Lab) -> None:
    with pytest.raises(NotFound, match="no processes"):
        await lab.manager.processes.perform(
            models.ListProcesses(), caller=Caller(connection="nobody"), on_event=ignore
        )


async def test_bash_and_node_keep_their_state_beside_one(station: Station) -> None:
    await station.cell("y=43", "python-bash")
    ticker = await station.python(TICKER)
    result = await station.cell("echo $y", "python-bash")
    assert (result.stdout.text, result.session.state) == ("43\n", "kept")
    assert (await station.view(ticker)).running


@pytest.mark.parametrize("wait", [0.0, 30.0])
async def test_a_start_whose_caller_goes_before_the_answer_leaves_no_process(
    station: Station, wait: float
) -> None:
    """At whatever moment: before the runner has heard of it, while it starts, and while its output is waited for."""
    await station.cell("1")
    for number in range(12):
        with anyio.move_on_after(number * 0.004 if not wait else 0.1 * (number % 3)) as scope:
            await station.start("sleep", "1000", wait=wait)
            assert not wait
        listed = (await station.do(models.ListProcesses())).processes
        running = [each.id for each in listed if each.running]
        assert not scope.cancelled_caught or running == []
        for process in running:
            await station.signal(process, "KILL")
    left = await station.cell(
        "import os; print(sum(open(f'/proc/{p}/cmdline').read().startswith('sleep') for p in os.listdir('/proc') if p.isdigit()))"
    )
    assert left.stdout.text == "0\n"


KILL_ALL = """
import os, signal
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if open(f'/proc/{pid}/comm').read() == 'cat\\n': os.kill(int(pid), signal.SIGKILL)
    except OSError: pass
"""


async def test_processes_that_have_ended_unseen_and_are_forgotten_are_not_taken_for_running(
    station: Station,
) -> None:
    for _ in range(3):
        for _ in range(8):
            await station.start("cat")
        assert (await station.cell(KILL_ALL)).outcome == "ok"
    last = await station.start("cat")
    sandboxes = [each.sandbox for each in station.lab.manager.sessions.registry.all()]
    meter = next(each.meter for each in sandboxes if each is not None and last in each.meter.running)
    with anyio.fail_after(5):
        while meter.running != {last}:
            await station.do(models.ListProcesses())
