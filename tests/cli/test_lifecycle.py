"""No container is left: not by an orderly stop, and not by a kill once the server is started again."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from .conftest import Deployment, until
from .stdio import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_of_a_run_leaves_no_container(
    deployment: Deployment, number: signal.Signals
) -> None:
    with anyio.fail_after(40):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            await peer.execute("import time")
            await peer.send(
                "tools/call", {"name": "code_execution", "arguments": {"code": "while 1: 0"}}, id=99
            )
            await deployment.until_containers(2)  # the session's and the warm one that took its place
            peer.process.send_signal(number)
            assert await peer.process.wait() == 0
        assert deployment.containers() == set()


async def test_a_client_that_leaves_takes_every_container_with_it(deployment: Deployment) -> None:
    with anyio.fail_after(40):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            await peer.execute("x = 1")
            assert deployment.containers() != set()
            assert peer.process.stdin is not None
            await peer.process.stdin.aclose()
            assert await peer.process.wait() == 0
        assert deployment.containers() == set()


async def test_what_a_killed_server_left_is_gone_once_it_is_started_again(deployment: Deployment) -> None:
    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            await peer.execute("x = 1")
            await peer.send(
                "tools/call", {"name": "code_execution", "arguments": {"code": "while 1: 0"}}, id=99
            )
            old = await deployment.until_containers(2)
            peer.process.kill()
        assert deployment.containers() == old
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            with anyio.fail_after(5):
                await until(lambda: not deployment.containers() & old)
            result = await peer.execute("'alive'")
            assert result["structuredContent"]["result"] == "'alive'"


async def test_what_runs_left_on_the_host_is_gone_with_the_server_or_at_its_next_start(
    deployment: Deployment,
) -> None:
    def kept() -> list[Path]:
        return list(deployment.state.glob("store-*/*"))

    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            await peer.execute("print('x' * 2_000_000)")
            (file,) = kept()
            assert file.stat().st_size == 2_000_001
            assert file.parent.stat().st_mode & 0o777 == 0o700
            peer.process.kill()
        assert kept() == [file]
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            await peer.execute("print('y' * 2_000_000)")
            assert kept() != [file]
            assert len(kept()) == 1
            assert peer.process.stdin is not None
            await peer.process.stdin.aclose()
            assert await peer.process.wait() == 0
        assert list(deployment.state.glob("store-*")) == []


async def test_a_second_server_leaves_the_first_one_s_sandboxes_alone(deployment: Deployment) -> None:
    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ) as first:
            await first.execute("kept = 42")
            before = await deployment.until_containers(2)
            async with serving(deployment.command("serve"), deployment.environ) as second:
                await second.execute("1")
                assert len(deployment.instances()) == 2
                assert before <= deployment.containers()
            result = await first.execute("kept")
            assert result["structuredContent"]["result"] == "42"


async def test_a_killed_second_server_is_swept_by_the_first_to_start(deployment: Deployment) -> None:
    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ):
            await deployment.until_containers(1)
            async with serving(deployment.command("serve"), deployment.environ) as second:
                await second.execute("1")
                both = await deployment.until_containers(3)
                second.process.kill()
            async with serving(deployment.command("serve", "--instance", "third"), deployment.environ):
                await until(lambda: len(deployment.containers() & both) == 1)


async def test_a_second_signal_ends_the_process_at_once(deployment: Deployment, tmp_path: Path) -> None:
    async with engine_that_hangs(tmp_path / "docker.sock") as address:
        with anyio.fail_after(20):
            environ = {**deployment.environ, "DOCKER_HOST": address}
            async with serving(deployment.command("serve"), environ) as peer:
                peer.process.send_signal(signal.SIGTERM)
                with anyio.move_on_after(1) as patience:
                    await peer.process.wait()
                assert patience.cancelled_caught, "it had nothing to wait for, so this test shows nothing"
                peer.process.send_signal(signal.SIGTERM)
                assert await peer.process.wait() == 128 + signal.SIGTERM


async def test_without_an_engine_the_server_lists_its_tools_and_says_what_is_wrong(
    deployment: Deployment,
) -> None:
    environ = {**deployment.environ, "DOCKER_HOST": "unix:///nonexistent"}
    with anyio.fail_after(20):
        async with serving(deployment.command("serve"), environ) as peer:
            tools = await peer.request("tools/list")
            assert "code_execution" in [tool["name"] for tool in tools["tools"]]
            result = await peer.execute("print(1)")
            assert result["isError"] is True
            said = result["content"][0]["text"]
            assert "engine_unavailable" in said
            assert "Traceback" not in said


async def test_a_server_without_an_engine_comes_back_by_itself(
    deployment: Deployment, tmp_path: Path
) -> None:
    socket = tmp_path / "docker.sock"
    environ = {**deployment.environ, "DOCKER_HOST": f"unix://{socket}"}
    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), environ) as peer:
            assert (await peer.execute("1"))["isError"] is True
            async with engine_behind(socket):
                while (result := await peer.execute("40 + 2")).get("isError"):  # noqa: ASYNC110
                    await anyio.sleep(0.2)
                assert result["structuredContent"]["result"] == "42"
                assert peer.process.stdin is not None
                await peer.process.stdin.aclose()
                assert await peer.process.wait() == 0
    assert deployment.containers() == set()


@asynccontextmanager
async def engine_behind(path: Path) -> AsyncIterator[None]:
    """The real engine, reachable at `path` for as long as this lasts."""
    real = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")

    async def relay(client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_unix(real) as engine, anyio.create_task_group() as tasks:
            tasks.start_soon(pump, client, engine)
            tasks.start_soon(pump, engine, client)

    async def pump(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
        try:
            async for chunk in source:
                await sink.send(chunk)
            await sink.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await sink.aclose()

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, relay)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def engine_that_hangs(path: Path) -> AsyncIterator[str]:
    """Something that takes connections and never answers. Its address."""

    async def ignore(client: anyio.abc.SocketStream) -> None:
        async with client:
            await anyio.sleep_forever()

    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, ignore)
        yield f"unix://{path}"
        tasks.cancel_scope.cancel()
