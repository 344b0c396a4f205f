"""A client that goes away, or takes its call back, while a process starts or a file is searched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import pytest
from docker.errors import APIError

from tests.cli.conftest import Deployment, deployment, until
from tests.cli.stdio import Peer, serving
from tests.e2e.test_client_gone import ENDS_WITHIN, http_server
from tests.transports.http_server import MODERN, modern_call, open_session

__all__ = ["deployment"]
pytestmark = pytest.mark.anyio

POLICY = """
schema: sandbox-policy/v1
roles:
  basic:
    tools: {allow: [code_execution, filesystem, process, sandbox]}
    code:
      defaults: {wall: 20s}
      languages: {python: {}}
deployment: {warm: 0, sandboxes: 4}
"""
ENDLESS = {
    "process": {"operation": "start", "command": ["sleep", "1000"], "wait": 20},
    # The regular expression takes longer than anybody lives.
    "filesystem": {"operation": "search", "pattern": "(a+)+$"},
}
LURE = {"operation": "write", "path": "lure", "content": "a" * 64 + "b"}


@dataclass
class Sandbox:
    """The only one there is, as the host sees it."""

    deployment: Deployment
    id: str
    idle: int = 0

    def processes(self) -> int:
        return len(self.deployment.docker.top(self.id)["Processes"])

    async def works(self) -> None:
        with anyio.fail_after(20):
            await until(lambda: self.processes() > self.idle)

    async def rests(self) -> None:
        """Nothing of the call is left in it, soon."""
        with anyio.fail_after(ENDS_WITHIN):
            await until(lambda: self.processes() <= self.idle)

    async def goes(self) -> None:
        with anyio.fail_after(ENDS_WITHIN):
            await until(lambda: self.id not in self.deployment.containers())


def only(deployment: Deployment) -> Sandbox:
    (container,) = deployment.containers()
    sandbox = Sandbox(deployment, container)
    sandbox.idle = sandbox.processes()
    return sandbox


@pytest.fixture
def wide(deployment: Deployment) -> Deployment:
    deployment.policy.write_text(POLICY)
    return deployment


@dataclass
class Web:
    """Tools over HTTP, by a client that can hang up."""

    http: httpx2.AsyncClient
    url: str
    session: dict[str, str] | None = None
    """The headers of a legacy session."""

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        body = modern_call(arguments)
        body["params"]["name"] = tool
        headers = {**MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        if self.session is not None:
            del body["params"]["_meta"]
            headers = self.session
        answer = await self.http.post(f"{self.url}/mcp", json=body, headers=headers)
        lines = [line for line in answer.text.splitlines() if line.startswith(("data: {", "{"))]
        result: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))["result"]
        assert not result.get("isError"), result
        return dict(result["structuredContent"])

    async def call_in_vain(self, tool: str, arguments: dict[str, Any]) -> None:
        with suppress(httpx2.HTTPError, KeyError, IndexError):
            await self.call(tool, **arguments)


@asynccontextmanager
async def web(deployment: Deployment, *, legacy: bool) -> AsyncIterator[Web]:
    with anyio.fail_after(60):
        async with http_server(deployment) as url, httpx2.AsyncClient(timeout=60) as http:
            yield Web(http, url, await open_session(http, url) if legacy else None)


@pytest.mark.parametrize("tool", ENDLESS)
async def test_a_client_that_hangs_up_ends_its_call_and_keeps_its_session(
    wide: Deployment, tool: str
) -> None:
    async with web(wide, legacy=False) as client:
        made = await client.call("sandbox", operation="create")
        mine = {"session": made["sessions"][0]["id"]}
        await client.call("filesystem", **LURE, **mine)
        sandbox = only(wide)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_in_vain, tool, {**ENDLESS[tool], **mine})
            await sandbox.works()
            tasks.cancel_scope.cancel()
        await sandbox.rests()
        found = await client.call("filesystem", operation="stat", path="lure", **mine)
        assert found["result"]["size"] == 65
        listed = await client.call("process", operation="list", **mine)
        assert [each for each in listed["processes"] if each["state"] == "running"] == []


async def test_a_client_that_hangs_up_while_a_process_starts_leaves_no_session_behind(
    wide: Deployment,
) -> None:
    async with web(wide, legacy=False) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_in_vain, "process", ENDLESS["process"])
            await wide.until_containers(1)
            (container,) = wide.containers()
            sandbox = Sandbox(wide, container)

            def sleeps() -> bool:
                with suppress(APIError):  # it is not started yet
                    return "sleep" in str(wide.docker.top(container)["Processes"])
                return False

            await until(sleeps)
            tasks.cancel_scope.cancel()
        await sandbox.goes()


@pytest.mark.parametrize("tool", ENDLESS)
async def test_a_connection_that_is_deleted_in_the_middle_of_a_call_takes_its_sandbox_along(
    wide: Deployment, tool: str
) -> None:
    async with web(wide, legacy=True) as client:
        await client.call("filesystem", **LURE)
        sandbox = only(wide)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_in_vain, tool, ENDLESS[tool])
            await sandbox.works()
            await client.http.delete(f"{client.url}/mcp", headers=client.session)
            await sandbox.goes()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("tool", ENDLESS)
@pytest.mark.parametrize("leaves", [False, True], ids=["cancels", "leaves"])
async def test_on_stdio_a_call_ends_with_its_cancellation_and_all_with_the_client(
    wide: Deployment, tool: str, leaves: bool
) -> None:
    with anyio.fail_after(60):
        async with serving(wide.command("serve"), wide.environ) as peer:
            await tool_call(peer, "filesystem", LURE)
            sandbox = only(wide)
            await peer.send("tools/call", {"name": tool, "arguments": ENDLESS[tool]}, id="endless")
            await sandbox.works()
            if leaves:
                assert peer.process.stdin is not None
                await peer.process.stdin.aclose()
                with anyio.fail_after(ENDS_WITHIN):
                    assert await peer.process.wait() == 0
                assert wide.containers() == set()
                return
            await peer.send("notifications/cancelled", {"requestId": "endless"})
            await sandbox.rests()
            listed = await tool_call(peer, "process", {"operation": "list"})
            assert [each for each in listed["processes"] if each["state"] == "running"] == []
            assert (await peer.execute("print(open('lure').read()[-1])"))["structuredContent"][
                "stdout"
            ] == "b\n"


async def tool_call(peer: Peer, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    result = await peer.request("tools/call", {"name": tool, "arguments": arguments})
    assert not result.get("isError"), result
    return dict(result["structuredContent"])
