"""What is not the program's fault is an error of ours, never an outcome."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import ConfigError, EngineUnavailable, ImageMissing, SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunRequest
from tests.execution.support import GRANTS, SIZING, managed, nothing_left, run

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("on", [None, "c"])
@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailable("no space left on device", hint="free some"),
        ConfigError("limit 'pids' can't be applied", hint="mount it"),
        ImageMissing("image 'python' is not built", hint="build it"),
    ],
)
async def test_an_engine_that_makes_no_sandbox_is_an_error_and_nothing_was_run(
    engine: FakeEngine, error: SandboxServerError, on: str | None
) -> None:
    async with managed(engine) as manager:
        engine.fail_next(error)
        with pytest.raises(type(error), match=error.message):
            await run(manager, "out hi", on=on)
        assert await nothing_left(manager, engine)
        assert (await run(manager, "out hi", on=on)).outcome == "ok"


async def test_a_limit_that_the_host_lost_while_the_server_ran_stops_every_run(engine: FakeEngine) -> None:
    async with managed(engine) as manager:
        engine.missing = {"memory": "no memory control group"}
        with pytest.raises(ConfigError, match="memory"):
            await run(manager, "out hi")
    assert engine.started == []


async def test_a_missing_image_and_a_limit_that_the_real_engine_refuses_are_errors(
    docker_engine: DockerEngine,
) -> None:
    python = GRANTS["python"]
    missing = replace(python.profile, image="polyglot")
    huge = replace(python.profile, limits=replace(python.profile.limits, cpus=100_000.0))
    grants = {"missing": replace(python, profile=missing), "huge": replace(python, profile=huge)}

    def resolve(name: str) -> str:
        return f"mcp-sandbox/{name}:never-built"

    docker_engine._resolve = resolve
    async with Manager(docker_engine, grants, SIZING) as manager:
        for language, kind in (("missing", ImageMissing), ("huge", ConfigError)):
            request = RunRequest(language, "print(1)")
            with anyio.fail_after(10), pytest.raises(kind):
                await manager.run(request, caller=Caller(), on_event=lambda _: None)
