"""One way out for all that is in a sandbox: which languages share one, and how long its connections live."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import anyio
import pytest
from anyio.abc import ByteStream

from sandbox_server import wire
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import ConfigError, InvalidRequest, PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.execution.grants import Grant, Rights
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.process_models import StartProcess
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.wire import Type
from tests.execution.handles import ALICE, cell, create, refusal
from tests.execution.support import PYTHON, SIZING, capture, ignore, job, opened, request, run, say, start

pytestmark = pytest.mark.anyio
FIRST = wire.FIRST_TUNNEL
WEB = EgressAccess("web", "somebody")


class Outlet:
    """Never ends by itself."""

    tunnels = 2
    trust = b""
    environment: Mapping[str, str] = {}
    cached = 0

    def __init__(self) -> None:
        self.serving = 0

    async def serve(self, tunnel: ByteStream) -> None:
        self.serving += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.serving -= 1


class Egress:
    def __init__(self) -> None:
        self.asked: list[EgressAccess] = []

    def outlet(self, access: EgressAccess) -> Outlet:
        self.asked.append(access)
        return Outlet()


@pytest.fixture
def egress() -> Egress:
    return Egress()


@pytest.fixture
async def manager(engine: FakeEngine, egress: Egress) -> AsyncIterator[Manager]:
    """All languages in one image; python and ruby have one way out, bash another, perl none."""
    ways = {"python": "web", "ruby": "web", "bash": "packages", "perl": None}
    grants = {name: Grant(LANGUAGES[name], PYTHON, egress=way) for name, way in ways.items()}
    with anyio.fail_after(20):
        async with Manager(engine, grants, SIZING, egress=egress) as manager:
            yield manager


async def test_languages_of_a_connection_share_a_sandbox_only_if_they_share_the_way_out(
    manager: Manager, engine: FakeEngine, egress: Egress
) -> None:
    for language in ("python", "ruby", "bash", "perl", "python", "bash"):
        assert (await run(manager, "out hi", language, on="c")).outcome == "ok"
    assert len(engine.started) == 3
    assert egress.asked == [EgressAccess("web", "anonymous"), EgressAccess("packages", "anonymous")]


async def test_a_session_runs_only_languages_of_its_way_out(manager: Manager, egress: Egress) -> None:
    session = await create(manager, language="python")
    assert session.languages == ("python", "ruby")
    assert (await cell(manager, session, "out hi", language="ruby")).outcome == "ok"
    for language, own in (("bash", "packages"), ("perl", "none")):
        wrong = await refusal(lambda language=language: cell(manager, session, "out hi", language=language))
        assert isinstance(wrong, InvalidRequest)
        assert f"whose egress profile is web: its own is {own}" in wrong.message
    assert egress.asked == [EgressAccess("web", "alice")]


async def test_a_session_without_a_way_out_gets_none_by_a_language_that_has_one(
    manager: Manager, egress: Egress
) -> None:
    session = await create(manager, language="perl")
    wrong = await refusal(lambda: cell(manager, session, "out hi", language="python"))
    assert "whose egress profile is none: its own is web" in wrong.message
    assert egress.asked == []


def python_with(egress: str | None) -> Rights:
    return Rights({"python": Grant(LANGUAGES["python"], PYTHON, egress=egress)})


async def test_a_call_that_is_given_another_way_out_has_another_session(
    manager: Manager, engine: FakeEngine
) -> None:
    for profile in ("web", "other", "web", "other"):
        caller = Caller(connection="c", rights=python_with(profile))
        assert (await manager.run(request("out hi"), caller=caller, on_event=ignore)).outcome == "ok"
    assert len(engine.started) == 2
    session = await create(manager, ALICE, language="python")
    other = replace(ALICE, rights=python_with("other"))
    with pytest.raises(InvalidRequest, match="its own is other"):
        await manager.run(request("out hi"), caller=other, on_event=ignore, session=session.info.id)


async def test_a_sandbox_without_network_sockets_is_given_no_way_out(
    engine: FakeEngine, egress: Egress
) -> None:
    strict = replace(PYTHON, seccomp="strict")
    caller = Caller(connection="c")
    grants = {"python": Grant(LANGUAGES["python"], strict, egress="web")}
    async with Manager(engine, grants, SIZING, egress=egress) as manager:
        with pytest.raises(ConfigError, match="together with seccomp: strict"):
            await run(manager, "out hi")
        with pytest.raises(ConfigError, match="together with seccomp: strict"):
            await manager.processes.perform(StartProcess(("true",)), caller=caller, on_event=ignore)
    assert sum(container.runner.ran for container in engine.started) == 0
    assert egress.asked == []


async def test_no_process_is_started_in_a_session_whose_way_out_its_caller_is_not_granted(
    manager: Manager,
) -> None:
    """Its principal may come with another token, which grants less."""
    session = await create(manager, language="python")
    caller = Caller("alice", None, python_with(None))
    with pytest.raises(PolicyDenied, match="has the egress profile web"):
        await manager.processes.perform(
            StartProcess(("true",)), caller=caller, session=session.info.id, on_event=ignore
        )


@pytest.mark.parametrize(("now", "asked"), [("web", ["web"]), ("other", ["web", "other"]), (None, ["web"])])
async def test_a_session_goes_on_with_the_way_out_that_the_policy_gives_it_now(
    manager: Manager, engine: FakeEngine, egress: Egress, now: str | None, asked: list[str]
) -> None:
    session = await create(manager, language="python")
    assert (await cell(manager, session, "set x 1")).outcome == "ok"
    assert (await run(manager, "set x 1", on="c")).outcome == "ok"
    rights = Rights({"python": Grant(LANGUAGES["python"], PYTHON, egress=now)}, revision="new")
    manager.regrant([PYTHON], "new", lambda who: rights, longest_run=1.0)
    caller = Caller("alice", None, rights)
    result = await manager.run(request("get x"), caller=caller, on_event=ignore, session=session.info.id)
    assert (result.stdout.text, result.session.state) == ("1\n", "kept")
    own = await manager.run(request("get x"), caller=Caller("anonymous", "c", rights), on_event=ignore)
    assert (own.stdout.text, own.session.state) == ("1\n", "kept")
    assert [access.profile for access in egress.asked if access.principal == "alice"] == asked
    assert len(engine.started) == 2


# --- on the wire


async def between_runs(sandbox: Sandbox, container: object, number: int = FIRST) -> None:
    """A run with a way out begins and ends, and then a connection comes."""
    outlet = sandbox.way_out.outlet(Egress(), WEB)
    await sandbox.run(job("out hi"), capture(), None, outlet)
    await say(container, wire.encode(Type.ACCEPT, number))
    await anyio.wait_all_tasks_blocked()


async def test_between_runs_a_connection_is_a_breach_unless_something_lives_on_that_may_make_one(
    engine: FakeEngine,
) -> None:
    container = await start(engine)
    async with opened(container) as sandbox:
        await between_runs(sandbox, container)
        assert not sandbox.alive
    container = await start(engine)
    async with opened(container) as sandbox:
        outlet = sandbox.way_out.outlet(Egress(), WEB)
        assert isinstance(outlet, Outlet)
        await sandbox.way_out.open(outlet, sandbox, lasting=True)
        await between_runs(sandbox, container)
        assert (sandbox.alive, outlet.serving) == (True, 1)
        await sandbox.run(job("out hi"), capture(), None, outlet)
        assert outlet.serving == 1
        await sandbox.reset()
        await anyio.wait_all_tasks_blocked()
        assert outlet.serving == 0
        await say(container, wire.encode(Type.ACCEPT, FIRST + 1))
        await anyio.wait_all_tasks_blocked()
        assert not sandbox.alive


async def test_a_sandbox_has_one_way_out_for_ever(engine: FakeEngine) -> None:
    async with opened(await start(engine)) as sandbox:
        egress = Egress()
        first = sandbox.way_out.outlet(egress, WEB)
        assert sandbox.way_out.outlet(egress, EgressAccess("web", "somebody")) is first
        for other in (EgressAccess("web", "else"), EgressAccess("packages", "somebody")):
            with pytest.raises(PolicyDenied, match="has the way out 'web'"):
                sandbox.way_out.outlet(egress, other)
        assert egress.asked == [WEB]


async def test_fewer_tunnels_than_before_are_no_breach_of_what_was_promised(engine: FakeEngine) -> None:
    """A policy may be reloaded between a background process and a run."""
    container = await start(engine)
    async with opened(container) as sandbox:
        outlet = sandbox.way_out.outlet(Egress(), WEB)
        assert isinstance(outlet, Outlet)
        assert await sandbox.way_out.open(outlet, sandbox, lasting=True) == 2
        outlet.tunnels = 1
        assert await sandbox.way_out.open(outlet, sandbox) == 1
        await say(container, wire.encode(Type.ACCEPT, FIRST) + wire.encode(Type.ACCEPT, FIRST + 1))
        await anyio.wait_all_tasks_blocked()
        assert (sandbox.alive, outlet.serving) == (True, 2)
        await say(container, wire.encode(Type.ACCEPT, FIRST + 2))
        await anyio.wait_all_tasks_blocked()
        assert not sandbox.alive
