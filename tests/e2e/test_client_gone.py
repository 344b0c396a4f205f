"""A client that goes away in the middle of a run, on each transport, against the real server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest

from tests.cli.conftest import Deployment, deployment, until
from tests.cli.stdio import serving
from tests.transports.http_server import MODERN_CALL, legacy_call, modern_call, open_session

__all__ = ["deployment"]
pytestmark = pytest.mark.anyio

ENDS_WITHIN = 5.0
ENDLESS = {"code": "print('begun', flush=True)\nwhile True: pass", "timeout": 20}


@asynccontextmanager
async def http_server(deployment: Deployment) -> AsyncIterator[str]:
    command = deployment.command("serve", "--transport", "http", "--port", "0", "--no-auth")
    async with await anyio.open_process(
        command, env=deployment.environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stderr is not None
            said = b""
            while not (found := re.search(rb"http://127\.0\.0\.1:\d+", said)):
                said += await process.stderr.receive()
            yield found[0].decode()
        finally:
            process.terminate()


async def until_it_runs(deployment: Deployment, warm: set[str]) -> str:
    """The container that the run is in: the one that was warm before it."""
    (container,) = warm

    def burns() -> bool:
        # Without numbers it is created and not started yet.
        pids = deployment.docker.stats(container, stream=False)["pids_stats"]
        return bool(pids.get("current", 0) > 1)

    with anyio.fail_after(20):
        await until(burns)
        await until(lambda: len(deployment.containers() - warm) == 1)
    return container


@pytest.mark.parametrize("transport", ["stdio", "modern", "legacy"])
async def test_a_client_that_leaves_in_the_middle_of_a_run_takes_its_sandbox_with_it(
    deployment: Deployment, transport: str
) -> None:
    """Number 81 of the threat list."""
    with anyio.fail_after(60):
        if transport == "stdio":
            async with serving(deployment.command("serve"), deployment.environ) as peer:
                warm = await deployment.until_containers(1)
                await peer.send("tools/call", {"name": "code_execution", "arguments": ENDLESS}, id=99)
                await until_it_runs(deployment, warm)
                assert peer.process.stdin is not None
                await peer.process.stdin.aclose()
                with anyio.fail_after(ENDS_WITHIN):
                    assert await peer.process.wait() == 0
            assert deployment.containers() == set()
            return
        async with http_server(deployment) as url, httpx2.AsyncClient(timeout=60) as http:
            warm = await deployment.until_containers(1)
            headers = MODERN_CALL if transport == "modern" else await open_session(http, url)
            body = modern_call(ENDLESS) if transport == "modern" else legacy_call(ENDLESS)

            async def call() -> None:
                # A session that is deleted answers what was going on in it, or hangs up.
                try:
                    await http.post(f"{url}/mcp", json=body, headers=headers)
                except httpx2.HTTPError:
                    return

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                used = await until_it_runs(deployment, warm)
                if transport == "modern":
                    tasks.cancel_scope.cancel()
                else:
                    await http.delete(f"{url}/mcp", headers=headers)
                with anyio.fail_after(ENDS_WITHIN):
                    await until(lambda: used not in deployment.containers())
                tasks.cancel_scope.cancel()
