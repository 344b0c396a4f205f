"""A server as it is composed for real, with a policy of the test's, on the fake engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError

from sandbox_server.config import Settings
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.execution.manager import Manager
from sandbox_server.policy.loader import load_policy
from sandbox_server.policy.models import Policy
from sandbox_server.protocol.asking import Asking
from sandbox_server.protocol.guarded import guarded_server
from sandbox_server.protocol.server import SandboxMcpServer
from sandbox_server.serving import Enforced, Ruling, open_enforced
from tests.protocol.fake_executor import connect

HEAD = "schema: sandbox-policy/v1\n"


@dataclass(frozen=True)
class Place:
    server: SandboxMcpServer
    enforced: Enforced
    ruling: Ruling
    manager: Manager
    engine: FakeEngine
    settings: Settings

    def client(self, era: str = "legacy", **options: Any) -> Client:
        return connect(self.server, era, **options)

    async def rewrite(self, policy: str) -> bool:
        """Another policy in the file, and what becomes of it."""
        self.settings.policy.write_text(HEAD + policy)
        return await self.ruling.reloading.reload()

    async def record(self, kind: str = "decision") -> list[dict[str, Any]]:
        """The lines of the decision log so far."""
        await self.enforced.gate.log.drain()
        files = sorted((self.settings.state_dir / "decisions" / "0").glob("*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]


@asynccontextmanager
async def place(
    directory: Path,
    policy: str,
    *,
    claims: dict[str, Any] | None = None,
    ask_seconds: float = 5.0,
    manager: type[Manager] = Manager,
) -> AsyncIterator[Place]:
    """`claims`: who all callers are taken for."""
    file, who = directory / "policy.yaml", directory / "claims.json"
    file.write_text(HEAD + policy)
    who.write_text(json.dumps(claims or {}))
    state = directory / "state"
    settings = Settings(file, state, secrets_dir=directory / "secrets", claims=who if claims else None)
    engine = FakeEngine()
    loaded = load_policy(file)
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(30))
        enforced = await stack.enter_async_context(open_enforced(settings, loaded, "0"))
        egress = enforced.outside.gateway
        executor = await stack.enter_async_context(manager(engine, {}, loaded.sizing, None, egress))
        ruling = Ruling(settings, enforced, executor, partial(load_policy, file), nothing_to_check)
        ruling.begin()
        server = guarded_server(
            executor,
            enforced.gate,
            lambda context: enforced.local,
            version="0",
            web=enforced.outside.web,
            databases=enforced.outside.databases,
            asking=Asking(seconds=ask_seconds),
        )
        yield Place(server, enforced, ruling, executor, engine, settings)


async def nothing_to_check(policy: Policy) -> None:
    """The fake engine can do everything."""


def facts(result: types.CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    return dict(result.structured_content)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What came of a call that was let through."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.structured_content
    return facts(result)


async def refusal(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a call was answered that was not."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return facts(result)


async def unread(client: Client, uri: str) -> str:
    with pytest.raises(MCPError) as caught:
        await client.read_resource(uri)
    return caught.value.error.message


def answering(action: str, **content: Any) -> tuple[Any, list[str]]:
    """A human, and what they were asked."""
    asked: list[str] = []

    async def answer(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action=action, content=content or None)

    return answer, asked
