"""Sessions of two principals on the real engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import InvalidRequest, NotFound, SandboxLost
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import (
    Queued,
    ResetWhat,
    RunEvent,
    RunRequest,
    RunResult,
    SessionLimits,
    SessionRequest,
    SessionView,
)
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import connect

ALICE, BOB = Caller("alice"), Caller("bob")
SIZING = Sizing(warm=0, sandboxes=6, sessions=6, parallel_starts=2, queue=100, queue_wait=60.0)
GRANTS = {
    name: Grant(
        language,
        Profile(language.image),
        widest=SandboxLimits(memory=512 * MIB, pids=128, workspace=128 * MIB),
    )
    for name, language in LANGUAGES.items()
}


@pytest.fixture
async def manager(docker_engine: DockerEngine) -> AsyncIterator[Manager]:
    async with Manager(docker_engine, GRANTS, SIZING) as manager:
        yield manager


class User:
    """One principal's session and calls."""

    def __init__(self, manager: Manager, caller: Caller) -> None:
        self._manager = manager
        self._caller = caller
        self.handle = ""

    async def open(self, **wanted: Any) -> SessionView:
        with anyio.fail_after(60):
            view = await self._manager.sessions.create(
                SessionRequest(**wanted), caller=self._caller, on_event=lambda _: None
            )
        self.handle = view.info.id or ""
        return view

    async def run(self, code: str, language: str = "python", *, session: str | None = None) -> RunResult:
        with anyio.fail_after(60):
            return await self._manager.run(
                RunRequest(language, code),
                caller=self._caller,
                on_event=lambda _: None,
                session=session or self.handle,
            )

    async def reset(self, what: ResetWhat) -> SessionView:
        with anyio.fail_after(60):
            return await self._manager.sessions.reset(
                self.handle, what, caller=self._caller, on_event=lambda _: None
            )

    def close(self) -> SessionView:
        return self._manager.sessions.close(self.handle, caller=self._caller)


async def test_two_principals_have_their_own_and_cannot_reach_each_others(manager: Manager) -> None:
    alice, bob = User(manager, ALICE), User(manager, BOB)
    await alice.open()
    await bob.open()
    await alice.run("x = 'secret'; open('kept', 'w').write(x)")
    await bob.run("x = 'other'")
    assert (await alice.run("x + open('kept').read()")).value == "'secretsecret'"
    answers = []
    for handle in (alice.handle, "0" * 32):
        with pytest.raises(NotFound) as caught:
            await bob.run("x", session=handle)
        answers.append(str(caught.value))
    assert answers[0] == answers[1]
    listed = manager.sessions.list(caller=BOB)
    assert [view.info.id for view in listed] == [bob.handle]


async def test_bash_runs_in_each_session_and_sees_its_files(manager: Manager) -> None:
    alice = User(manager, ALICE)
    await alice.open(language="javascript")
    await alice.run("require('fs').writeFileSync('x', 'from node')", "javascript")
    assert (await alice.run("cat x", "bash")).stdout.text == "from node"
    with pytest.raises(InvalidRequest, match="which runs javascript, typescript, bash"):
        await alice.run("1", "python")


async def test_the_limits_asked_for_are_the_limits_there_are(manager: Manager) -> None:
    alice = User(manager, ALICE)
    await alice.open(limits=SessionLimits(pids=32, memory=200 * MIB, workspace=8 * MIB))
    seen = await alice.run(
        "import os, shutil, threading\n"
        "threads = []\n"
        "try:\n"
        "    for _ in range(100):\n"
        "        threads.append(threading.Thread(target=threading.Event().wait, args=(5,), daemon=True))\n"
        "        threads[-1].start()\n"
        "except RuntimeError: pass\n"
        "print(len(threads) < 32, shutil.disk_usage('/workspace').total)"
    )
    assert seen.stdout.text == f"True {8 * MIB}\n"


async def test_a_fresh_interpreter_has_the_files_and_nothing_that_ran(manager: Manager) -> None:
    alice = User(manager, ALICE)
    await alice.open()
    await alice.run("x = 42; open('kept', 'w').write('here')")
    before = await alice.run("import os; print(os.getpid())")
    view = await alice.reset("interpreter")
    assert (view.info.state, view.info.id) == ("reset", alice.handle)
    after = await alice.run(
        "import os\nprint('x' in globals(), open('kept').read())\n"
        "print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()) == [1, os.getpid()])"
    )
    assert after.stdout.text == "False here\nTrue\n"
    assert after.session.state == "kept"
    assert before.session.id == after.session.id
    # Two times in a row, without an interpreter in between.
    await alice.reset("interpreter")
    assert (await alice.reset("interpreter")).info.state == "reset"
    assert (await alice.run("open('kept').read()")).value == "'here'"


async def test_everything_new_leaves_nothing_of_before(manager: Manager) -> None:
    alice = User(manager, ALICE)
    await alice.open()
    await alice.run("open('kept', 'w').write('here'); open('/tmp/kept', 'w').write('here')")
    assert (await alice.reset("everything")).info.state == "lost"
    after = await alice.run("import os; print(os.listdir('.'), os.path.exists('/tmp/kept'))")
    assert after.stdout.text == "[] False\n"
    await sandboxes(manager, 1)


async def sandboxes(manager: Manager, number: int) -> None:
    with anyio.fail_after(20):
        while (await manager.health())["sandboxes"] != number:  # noqa: ASYNC110 - removal tells nobody
            await anyio.sleep(0.02)


async def test_closing_kills_what_runs_and_a_dead_container_is_told(
    manager: Manager, docker_engine: DockerEngine
) -> None:
    alice, bob = User(manager, ALICE), User(manager, BOB)
    await alice.open()
    await bob.open()
    errors: list[Exception] = []

    async def endless() -> None:
        try:
            await alice.run("print('on')\nwhile True: pass")
        except SandboxLost as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(endless)
        with anyio.fail_after(20):
            while not manager.sessions.info(alice.handle, caller=ALICE).running:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        alice.close()
    assert len(errors) == 1
    with pytest.raises(NotFound, match="it was closed"):
        await alice.run("1")
    # Its container is removed behind the manager's back, as an operator's `docker rm -f` would.
    await docker_engine.aclose()
    with pytest.raises(NotFound, match=r"had died.*gone"):
        await bob.run("1")
    await sandboxes(manager, 0)


async def test_a_stateless_client_works_in_a_session_by_its_handle(manager: Manager) -> None:
    async with connect(build_server(manager, version="0"), "2026-07-28") as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            with anyio.fail_after(60):
                content = (await client.call_tool(tool, arguments)).structured_content
            assert isinstance(content, dict)
            return content

        (made,) = (await call("sandbox", operation="create", ttl=60))["sessions"]
        await call("code_execution", code="x = 41", session=made["id"])
        again = await call("code_execution", code="x + 1", session=made["id"])
        assert (again["result"], again["session"]["state"]) == ("42", "kept")
        assert 0 < again["session"]["expires_in_seconds"] <= 60
        await call("sandbox", operation="close", session=made["id"])
        over = await call("code_execution", code="x", session=made["id"])
        assert over["code"] == "not_found"
        assert "closed" in over["message"]


async def test_forty_calls_of_five_principals_are_served_in_turn(manager: Manager) -> None:
    principals = ("ann", "bea", "cem", "dan", "eva")
    order: list[str] = []
    positions: list[int] = []

    def on_event(event: RunEvent) -> None:
        if isinstance(event, Queued):
            positions.append(event.position)

    async def call(principal: str) -> None:
        result = await manager.run(
            RunRequest("python", "print('hi')"), caller=Caller(principal), on_event=on_event
        )
        assert result.outcome == "ok"
        order.append(principal)

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            for principal in principals:
                for _ in range(8):
                    tasks.start_soon(call, principal)
    assert Counter(order) == dict.fromkeys(principals, 8)
    # Two starts side by side may end in either order.
    for index in range(1, len(order) + 1):
        so_far = Counter(order[:index])
        assert max(so_far.values()) - min(so_far[principal] for principal in principals) <= 3
    assert max(positions) == 40
    await sandboxes(manager, 0)
