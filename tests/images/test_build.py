"""Builds on the real engine: only what is stale, one at a time, and failures that explain themselves."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import anyio
import pytest

from sandbox_server.engines.docker.images import DockerImages, open_images
from sandbox_server.errors import ConfigError
from sandbox_server.images.build import build
from sandbox_server.images.inventory import statuses
from sandbox_server.images.recipes import DEFAULT, NAMES, tag_of
from tests.images.conftest import Log

pytestmark = pytest.mark.anyio


async def test_a_build_with_nothing_stale_is_over_at_once(
    store: DockerImages, built: dict[str, str], log: Log
) -> None:
    with anyio.fail_after(2):
        assert await build(store, report=log) == built
    assert log == []


async def test_up_to_date_images_are_listed_as_present_with_their_ids(
    store: DockerImages, built: dict[str, str]
) -> None:
    listed = await statuses(store)
    assert [status.name for status in listed] == list(NAMES)
    for status in listed[: len(DEFAULT)]:
        assert (status.state, status.id, status.tag) == ("present", built[status.name], tag_of(status.name))
        assert status.size is not None
        assert status.size > 50_000_000


@pytest.mark.usefixtures("built")
async def test_a_new_runner_makes_images_stale_and_rebuilds_only_their_last_layer(
    store: DockerImages, changed: Path, log: Log
) -> None:
    before = [status.state for status in await statuses(store, changed) if status.name in DEFAULT]
    assert before == ["stale"] * len(DEFAULT)
    with anyio.fail_after(60):
        made = await build(store, ["shell"], report=log, root=changed)
    # Of no image is only the word that another process holds the lock.
    assert [name for name in log.images if name] == ["shell"]
    states = {one.name: one.state for one in await statuses(store, changed) if one.name in DEFAULT}
    assert states == {"base": "stale", "python": "stale", "node": "stale", "shell": "present"}
    image = await store.find(tag_of("shell", changed))
    assert image is not None
    assert image.id == made["shell"]


@pytest.mark.usefixtures("built")
async def test_progress_rises_to_the_whole(store: DockerImages, changed: Path, log: Log) -> None:
    await build(store, ["base"], report=log, root=changed)
    fractions = [step.fraction for step in log if step.fraction is not None]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len(set(fractions)) > 3


@pytest.mark.usefixtures("built")
async def test_two_builds_at_once_take_turns_and_build_once(changed: Path, tmp_path: Path) -> None:
    logs = [Log(), Log()]
    made: list[dict[str, str]] = []

    async def one(log: Log) -> None:
        async with open_images() as images:
            made.append(await build(images, ["base"], report=log, root=changed, cache=tmp_path / "cache"))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for log in logs:
                group.start_soon(one, log)
    assert made[0] == made[1]
    assert sorted(log.images for log in logs) == [[""], ["base"]]


@pytest.mark.usefixtures("built")
async def test_a_failing_step_says_which_and_what_it_printed(
    store: DockerImages, copied: Path, log: Log
) -> None:
    (copied / "shell" / "Dockerfile").write_text(
        "ARG PARENT\nFROM ${PARENT}\nRUN printf '\\033[31mno luck \\007today\\n'; exit 3\n"
    )
    with pytest.raises(ConfigError, match="returned a non-zero code: 3") as raised:
        await build(store, ["shell"], report=log, root=copied)
    assert "no luck today" in raised.value.hint
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", raised.value.hint)
    assert await store.find(tag_of("shell", copied)) is None


async def test_a_registry_that_does_not_answer_is_no_failure_of_the_engine(store: DockerImages) -> None:
    with anyio.fail_after(30), pytest.raises(ConfigError):
        await store.pull("localhost:1/nothing:none", tag="mcp-sandbox/test:none", log=lambda _: None)


async def test_an_engine_that_does_not_answer_is_unavailable() -> None:
    # In a process of its own: docker-py drops the socket that could not connect without closing it,
    # and here warnings are errors.
    program = """
import anyio
from sandbox_server.engines.docker.images import open_images
from sandbox_server.errors import EngineUnavailable

async def main():
    try:
        async with open_images("unix:///nonexistent/docker.sock"):
            print("opened")
    except EngineUnavailable as error:
        print("unavailable:", error)

anyio.run(main)
"""
    with anyio.fail_after(20):
        done = await anyio.run_process([sys.executable, "-c", program])
    assert done.stdout.decode().startswith("unavailable: the Docker Engine does not answer")


async def test_removing_what_is_not_there_is_no_error(store: DockerImages) -> None:
    await store.remove("mcp-sandbox/test:never-built")
    assert await store.find("mcp-sandbox/test:never-built") is None
