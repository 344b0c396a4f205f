"""What happens to a run from outside: its sandbox killed or frozen, its clock moved, its text odd."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from uuid import uuid4

import anyio
import pytest
from anyio.to_thread import run_sync
from docker import APIClient

from sandbox_server.errors import SandboxLost, SandboxServerError
from sandbox_server.execution.models import InputFile, Output, RunResult
from tests.hostile.lab import Lab

ENDS_WITHIN = 5.0


class Meddler:
    """Does something to the container of a run as soon as that has printed its first line."""

    def __init__(self, lab: Lab, act: Callable[[APIClient, str], None]) -> None:
        self._lab = lab
        self._act = act
        self.container = ""
        self.acted = 0.0

    async def meddle(self, begun: anyio.Event, mark: str) -> None:
        await begun.wait()
        self.container = self._lab.named(mark)[0].sandbox
        api = APIClient(version="auto")
        await run_sync(self._act, api, self.container)
        self.acted = time.monotonic()
        api.close()

    async def run(self, code: str, mark: str, **options: object) -> RunResult:
        begun = anyio.Event()

        def on_output(_: Output) -> None:
            begun.set()

        code = f"rename({mark!r}); print('begun', flush=True)\n{code}"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.meddle, begun, mark)
            return await self._lab.run(code, on_output=on_output, **options)


@pytest.mark.parametrize("in_session", [False, True])
async def test_a_sandbox_killed_from_outside_is_lost_and_may_have_run(
    lab: Lab, mark: str, in_session: bool
) -> None:
    """80. Nothing is run a second time, and nothing is left over; the next call works."""
    connection = uuid4().hex if in_session else None
    meddler = Meddler(lab, lambda api, id: api.kill(id))
    with pytest.raises(ExceptionGroup) as caught:
        await meddler.run("time.sleep(100)", mark, wall=25, connection=connection)
    (error,) = caught.value.exceptions
    assert isinstance(error, SandboxLost)
    assert "may have run" in error.hint
    assert not error.retry_safe
    assert time.monotonic() - meddler.acted < ENDS_WITHIN
    await lab.until(lambda: not lab.holds(meddler.container), ENDS_WITHIN)
    after = await lab.run("print('x' in globals())", connection=connection)
    assert after.stdout.text == "False\n"
    assert after.session.state == ("kept" if in_session else "none")
    await lab.manager.close_connection(connection or "")


@pytest.mark.parametrize("reuse_for", [None, "frozen"])
async def test_a_frozen_sandbox_is_thawed_killed_and_told_to_the_operator(
    lab: Lab, mark: str, caplog: pytest.LogCaptureFixture, reuse_for: str | None
) -> None:
    """87. A paused control group takes no signal: the run ends at its limit all the same."""
    meddler = Meddler(lab, lambda api, id: api.pause(id))
    result = await meddler.run("time.sleep(100)", mark, wall=2, reuse_for=reuse_for)
    assert (result.outcome, result.limit) == ("timeout", "wall")
    assert result.usage.wall <= 2 + ENDS_WITHIN
    await lab.until(lambda: not lab.holds(meddler.container), ENDS_WITHIN)
    assert "did not end a run" in caplog.text


async def test_a_frozen_session_is_lost_and_says_so(lab: Lab, mark: str) -> None:
    """87. What it kept went with its sandbox."""
    connection = uuid4().hex
    await lab.run("x = 1", connection=connection)
    meddler = Meddler(lab, lambda api, id: api.pause(id))
    result = await meddler.run("time.sleep(100)", mark, wall=2, connection=connection)
    assert (result.outcome, result.session.state) == ("timeout", "lost")
    after = await lab.run("print('x' in globals())", connection=connection)
    assert after.stdout.text == "False\n"
    await lab.manager.close_connection(connection)


async def test_an_interpreter_that_kills_itself_is_reset_and_says_so(lab: Lab) -> None:
    """80. From inside: variables are gone, files are kept."""
    connection = uuid4().hex
    await lab.run("x = 1; open('kept', 'w').write('here')", connection=connection)
    died = await lab.run("os.kill(os.getpid(), 9)", connection=connection)
    assert (died.outcome, died.signal, died.session.state) == ("signal", "SIGKILL", "reset")
    after = await lab.run("print('x' in globals(), open('kept').read())", connection=connection)
    assert (after.stdout.text, after.session.state) == ("False here\n", "kept")
    await lab.manager.close_connection(connection)


NASTY = [
    "; touch /tmp/pwned",
    "| id & $(id) `id`",
    "--privileged",
    "-v /:/host",
    "new\nline",
    "'\"\\",
    "{file}{out}",
    "%s%n",
]


@pytest.mark.parametrize("text", NASTY)
async def test_text_of_a_caller_is_data_and_reaches_no_container(lab: Lab, text: str) -> None:
    """85. Names of files and arguments arrive as they are; nothing of them is in a container's settings."""
    secret = f"{text}{uuid4().hex}"
    name = secret.replace("/", "_").replace("\n", "_")  # no path holds a line end here
    code = "print(sys.argv[1:], sorted(os.listdir('/workspace')), os.path.exists('/tmp/pwned'))"
    seen: list[str] = []

    def look(_: Output) -> None:
        api = APIClient(version="auto")
        for each in api.containers(filters={"label": f"sbx.instance={lab.instance}"}):
            seen.append(json.dumps(api.inspect_container(each["Id"])))
        api.close()

    result = await lab.run(code, args=(secret,), files=(InputFile(name, b"x"),), on_output=look)
    assert result.outcome == "ok", result.stderr.text
    assert result.stdout.text == f"{[secret]} {[name]} False\n"
    assert seen
    assert all(secret[-32:] not in settings for settings in seen)
    for language in (text, f"python{text}"):
        with pytest.raises(SandboxServerError, match="unknown language"):
            await lab.run("1", language)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_jump_of_the_hosts_clock_moves_no_deadline(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """88. Neither of a run nor of a session; and nobody's sandbox is reaped for it."""
    connection = uuid4().hex
    before = await lab.run("x = 1", connection=connection)
    begin, real = time.monotonic(), time.time

    def on_output(_: Output) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)

    result = await lab.run("print(1, flush=True); time.sleep(100)", wall=1, on_output=on_output)
    assert (result.outcome, result.limit) == ("timeout", "wall")
    assert 1 <= time.monotonic() - begin < ENDS_WITHIN
    assert abs(time.time() - real() - 3600 * hours) < 1
    assert await lab.manager._engine.reap(now=time.time()) == 0
    lab.manager._expire()
    after = await lab.run("print(x)", connection=connection)
    assert (after.stdout.text, after.session.state) == ("1\n", "kept")
    assert 0 <= (before.session.expires_in or 0) - (after.session.expires_in or 0) + ENDS_WITHIN < 60
    await lab.manager.close_connection(connection)
