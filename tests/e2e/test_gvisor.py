"""gVisor through the same code: `runtime: runsc` is one word of the profile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import InvalidRequest, SandboxLost
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import Isolation, Page, RunLimits, RunRequest, RunResult
from sandbox_server.execution.process_models import StartProcess
from sandbox_server.images.recipes import tag_of

LIMITS = RunLimits(wall=20.0, cpu=20.0)


@pytest.fixture
async def manager(owner: Owner, gvisor_host: str) -> AsyncIterator[Manager]:
    engine = DockerEngine(owner, tag_of, base_url=gvisor_host)
    grants = {
        name: Grant(language, Profile(language.image, runtime="runsc"), LIMITS, LIMITS)
        for name, language in LANGUAGES.items()
    }
    async with Manager(engine, grants, Sizing(warm=0)) as manager:
        yield manager


async def run(
    manager: Manager,
    code: str,
    *,
    language: str = "python",
    wall: float = 20.0,
    connection: str | None = None,
) -> RunResult:
    request = RunRequest(language, code, limits=replace(LIMITS, wall=wall))
    with anyio.fail_after(60):
        return await manager.run(request, caller=Caller(connection=connection), on_event=lambda event: None)


async def test_files_that_a_run_made_are_known_there_too(manager: Manager) -> None:
    result = await run(manager, "open('a b.txt', 'w').write('text')")
    (artifact,) = result.artifacts
    assert (artifact.path, artifact.size) == ("a b.txt", 4)
    assert (await manager.read_resource(str(artifact.uri), Page(), caller=Caller())).data == b"text"
    for name in "bc":
        result = await run(manager, f"open('{name}', 'w').close()", connection="session")
        assert [artifact.path for artifact in result.artifacts] == [name]


async def test_an_interpreter_that_wakes_itself_between_calls_ends_there_too(manager: Manager) -> None:
    code = """
import ctypes, signal
class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("rest", ctypes.c_char * 52)]
libc, event, timer = ctypes.CDLL(None), Event(signal=signal.SIGCONT), ctypes.c_void_p()
print(libc.timer_create(1, ctypes.byref(event), ctypes.byref(timer)),
      libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 40_000_000, 0, 60_000_000), None))
"""
    assert (await run(manager, "x = 1", connection="session")).session.state == "kept"
    awake = await run(manager, code, connection="session")
    assert (awake.stdout.text, awake.session.state) == ("0 0\n", "kept")
    await run(manager, "import time; time.sleep(0.2)", connection="meanwhile")
    after = await run(manager, "print('x' in globals())", connection="session")
    assert (after.stdout.text, after.session.state) == ("False\n", "reset")


async def test_the_kernel_that_a_program_sees_is_gvisors(manager: Manager) -> None:
    result = await run(manager, "print(open('/proc/version').read())")
    assert result.outcome == "ok"
    assert "gVisor" in result.stdout.text or "4.4.0" in result.stdout.text
    assert result.isolation == Isolation("runsc", "user-space-kernel", seccomp=None)


@pytest.mark.parametrize(
    ("language", "code"),
    [("python", "print(6 * 7)"), ("javascript", "console.log(6 * 7)"), ("bash", "echo $((6 * 7))")],
)
async def test_each_language_answers(manager: Manager, language: str, code: str) -> None:
    result = await run(manager, code, language=language)
    assert (result.outcome, result.stdout.text) == ("ok", "42\n")


async def test_variables_live_on_between_the_calls_of_a_connection(manager: Manager) -> None:
    await run(manager, "x = 41", connection="a")
    result = await run(manager, "x + 1", connection="a")
    assert (result.value, result.session.state) == ("42", "kept")


async def test_an_endless_loop_is_stopped_on_time(manager: Manager) -> None:
    result = await run(manager, "while True: pass", wall=1.0)
    assert (result.outcome, result.limit) == ("timeout", "wall")
    assert result.usage.wall - 1.0 <= 0.1


async def test_a_memory_bomb_is_out_of_memory(manager: Manager) -> None:
    result = await run(manager, "a = [bytearray(1 << 20) for _ in range(1000)]")
    assert (result.outcome, result.limit) == ("out_of_memory", "memory")


async def test_a_program_that_kills_the_runner_costs_its_sandbox_and_the_result_says_so(
    manager: Manager,
) -> None:
    # gVisor lets a process signal the init of its namespace, which Linux does not.
    with pytest.raises(SandboxLost) as caught:
        await run(manager, "import os; os.kill(1, 9); import time; time.sleep(10)")
    assert "may have run" in caught.value.hint
    assert not caught.value.retry_safe
    assert (await run(manager, "print('next')")).stdout.text == "next\n"


async def test_there_is_no_network(manager: Manager) -> None:
    result = await run(
        manager,
        "import socket\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), 3)\n"
        "except OSError as e:\n    print(e.errno)",
    )
    # ENETUNREACH or EHOSTUNREACH, by the release of gVisor.
    assert result.stdout.text in ("101\n", "113\n")


async def test_background_processes_are_refused_where_nobody_can_tell_them_apart(manager: Manager) -> None:
    """Releases of gVisor without PR_SET_CHILD_SUBREAPER; the others can keep them."""
    probe = "import ctypes\nctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"
    can = (await run(manager, probe, connection="probe")).value == "0"
    assert (await run(manager, "x = 42", connection="session")).session.state == "kept"
    try:
        operation = StartProcess(("sleep", "1000"))
        caller = Caller(connection="session")
        answer = await manager.processes.perform(operation, caller=caller, on_event=lambda event: None)
        story = "running" if answer.processes[0].running else "ended"
    except InvalidRequest as refusal:
        story = refusal.message
    assert story == ("running" if can else "this sandbox's runtime can't keep background processes")
    after = await run(manager, "x", connection="session")
    assert (after.value, after.session.state) == ("42", "kept")
