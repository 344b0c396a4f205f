"""Clients hear of it when a new policy changes the tools that they are shown, and of nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import ToolsListChanged

from sandbox_server.execution.api import Caller
from sandbox_server.protocol.list_changes import ListChanges
from sandbox_server.transports.http import HttpSettings, serve_http
from tests.enforcement.place import Place, place

pytestmark = pytest.mark.anyio


def policy(tools: str, languages: str = "{python: {}}", more: str = "") -> str:
    return f"""
roles:
  basic: {{tools: {{allow: [{tools}]}}, code: {{languages: {languages}}}{more}}}
deployment: {{warm: 0}}
"""


ONE, TWO = policy("code_execution"), policy("code_execution, filesystem")


@dataclass
class Ear:
    """What a client of the handshake era hears."""

    heard: list[str] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.heard.append(message.method)
            self.changed.set()


@asynccontextmanager
async def connected(here: Place, transport: str, era: str, ear: Ear) -> AsyncIterator[Client]:
    if transport == "memory":
        async with here.client(era, message_handler=ear) as client:
            yield client
        return
    ready, streaming, urls = anyio.Event(), anyio.Event(), []

    def listening(url: str) -> None:
        urls.append(url)
        ready.set()

    async def answered(response: httpx2.Response) -> None:
        if response.request.method == "GET":
            streaming.set()

    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(lambda: serve_http(here.server, HttpSettings(port=0), on_ready=listening))
        await ready.wait()
        http = await stack.enter_async_context(
            httpx2.AsyncClient(event_hooks={"response": [answered]}, timeout=30)
        )
        wire = streamable_http_client(f"{urls[0]}/mcp", http_client=http)
        async with Client(wire, mode=era, message_handler=ear) as client:
            if era == "legacy":
                await streaming.wait()
            yield client
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["memory", "http"])
async def test_a_session_is_told_that_its_tools_have_changed(tmp_path: Path, transport: str) -> None:
    ear = Ear()
    async with place(tmp_path, ONE) as here, connected(here, transport, "legacy", ear) as client:
        capabilities = client.server_capabilities
        assert capabilities is not None
        assert capabilities.tools is not None
        assert capabilities.tools.list_changed
        before = [tool.name for tool in (await client.list_tools()).tools]
        assert await here.rewrite(TWO)
        await ear.changed.wait()
        after = [tool.name for tool in (await client.list_tools()).tools]
    assert (before, after) == (["code_execution"], ["code_execution", "filesystem"])
    assert len(ear.heard) == 1


@pytest.mark.parametrize("transport", ["memory", "http"])
async def test_who_listens_is_told_that_its_tools_have_changed(tmp_path: Path, transport: str) -> None:
    async with (
        place(tmp_path, ONE) as here,
        connected(here, transport, "2026-07-28", Ear()) as client,
        client.listen(tools_list_changed=True, resource_subscriptions=["sandbox://other/x"]) as changes,
    ):
        assert changes.honored.tools_list_changed
        assert changes.honored.resource_subscriptions is None, "nobody is told of what is another's"
        capabilities = (await client.session.send_discover("2026-07-28"))["capabilities"]
        assert capabilities["tools"]["listChanged"]
        assert not capabilities["resources"].get("subscribe")
        assert await here.rewrite(TWO)
        assert await anext(changes) == ToolsListChanged()
        assert "filesystem" in [tool.name for tool in (await client.list_tools()).tools]


async def test_a_change_that_is_none_of_the_callers_list_is_not_told(tmp_path: Path) -> None:
    """What a tool takes is in the list, what it may do is not."""
    ear = Ear()
    async with place(tmp_path, ONE) as here, here.client("legacy", message_handler=ear) as client:
        await client.list_tools()
        assert await here.rewrite(policy("code_execution", more=", quotas: {runs: 5/h}"))
        await anyio.wait_all_tasks_blocked()
        assert ear.heard == []
        assert await here.rewrite(policy("code_execution", "{python: {}, bash: {image: shell}}"))
        await ear.changed.wait()
        await anyio.wait_all_tasks_blocked()
        assert len(ear.heard) == 1


async def test_listening_streams_end_in_good_order_when_the_server_stops(tmp_path: Path) -> None:
    async with (
        place(tmp_path, ONE) as here,
        here.client("2026-07-28") as client,
        client.listen(tools_list_changed=True) as changes,
    ):
        here.server.changes.close()
        assert [each async for each in changes] == []


async def test_streams_of_one_principal_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox_server.protocol.list_changes.MOST_OF_EACH", 1)
    async with place(tmp_path, ONE) as here, here.client("2026-07-28") as client:
        async with client.listen(tools_list_changed=True):
            with pytest.raises(Exception, match="Too many subscriptions"):
                async with client.listen(tools_list_changed=True):
                    raise AssertionError
        await anyio.wait_all_tasks_blocked()
        async with client.listen(tools_list_changed=True) as again:
            assert again.honored.tools_list_changed


async def test_one_whose_list_can_not_be_made_costs_the_others_nothing() -> None:
    broken, told = False, anyio.Event()

    def listed(caller: Caller) -> list[types.Tool]:
        if broken and caller.principal == "broken":
            raise RuntimeError
        return [types.Tool(name=str(broken), input_schema={})]

    changes = ListChanges(listed, lambda caller: caller)
    with anyio.fail_after(5):
        async with changes.telling():
            changes.watch(Caller("broken"), lambda event: None)
            changes.watch(Caller("whole"), lambda event: told.set())
            broken = True
            changes.changed()
            await told.wait()
            await anyio.wait_all_tasks_blocked()
