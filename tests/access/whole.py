"""A whole server (policy, gate, tools) with names in the test's hands, and what an MCP client sees of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from mcp import Client

from sandbox_server.access.http.models import Resolver
from sandbox_server.config import Settings
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.docker.images import open_images
from sandbox_server.engines.fake import FakeEngine
from sandbox_server.errors import UpstreamUnreachable
from sandbox_server.execution.manager import Manager
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.images.build import build
from sandbox_server.images.recipes import DEFAULT, tag_of
from sandbox_server.policy.loader import load_policy
from sandbox_server.policy.models import Policy
from sandbox_server.protocol.guarded import guarded_server
from sandbox_server.serving import Enforced, Ruling, open_enforced
from tests.cgroups import remove_groups
from tests.protocol.fake_executor import connect

HEAD = "schema: sandbox-policy/v1\n"


@dataclass
class Zone:
    """A resolver: what each lookup of a name answers, one after the other, the last for ever. Other names are
    at `others`; where that is empty they do not exist."""

    names: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    others: Sequence[str] = ()
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int, principal: str = "") -> Sequence[IPAddress]:
        self.asked.append(host)
        turns = self.names.get(host, [self.others])
        found = turns.pop(0) if len(turns) > 1 else turns[0]
        if not found:
            raise UpstreamUnreachable(f"{host} has no address.", reason="web.dns")
        return [ip_address(each) for each in found]

    def clear(self) -> None:
        self.names.clear()
        self.asked.clear()


@dataclass
class Whole:
    client: Client
    enforced: Enforced
    ruling: Ruling
    manager: Manager
    settings: Settings

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What an MCP client is told: the result, or the error with its `code`."""
        result = await self.client.call_tool(tool, arguments)
        assert result.structured_content is not None, result.content
        return dict(result.structured_content)

    async def web(self, url: str, method: str = "GET", **arguments: Any) -> dict[str, Any]:
        return await self.call("web_api", url=url, method=method, **arguments)

    async def rewrite(self, policy: str) -> bool:
        """Another policy in the file, and whether it came into force."""
        self.settings.policy.write_text(HEAD + policy)
        return await self.ruling.reloading.reload()

    async def record(self, kind: str) -> list[dict[str, Any]]:
        await self.enforced.gate.log.drain()
        files = sorted((self.settings.state_dir / "decisions" / "0").glob("*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]


@asynccontextmanager
async def whole(
    directory: Path,
    policy: str,
    resolver: Resolver | None,
    *,
    docker: bool = False,
    era: str = "legacy",
    secrets: Mapping[str, str] | None = None,
) -> AsyncIterator[Whole]:
    """With `docker`, programs run in real sandboxes. Without a `resolver`, names are the system's."""
    file = directory / "policy.yaml"
    file.write_text(HEAD + policy)
    kept = directory / "secrets"
    kept.mkdir(exist_ok=True)
    for name, value in (secrets or {}).items():
        (kept / name).write_text(value)
        (kept / name).chmod(0o600)
    settings = Settings(file, directory / "state", secrets_dir=kept)
    instance = f"whole{uuid4().hex[:12]}"
    loaded = load_policy(file)
    async with AsyncExitStack() as stack:
        stack.callback(remove_groups, instance)
        engine = await _docker(instance) if docker else FakeEngine()
        enforced = await stack.enter_async_context(open_enforced(settings, loaded, "0", resolver=resolver))
        outside = enforced.outside
        manager = await stack.enter_async_context(Manager(engine, {}, loaded.sizing, None, outside.gateway))
        ruling = Ruling(settings, enforced, manager, partial(load_policy, file), _nothing_to_check)
        ruling.begin()
        server = guarded_server(
            manager,
            enforced.gate,
            lambda context: enforced.local,
            version="0",
            web=outside.web,
            databases=outside.databases,
        )
        client = await stack.enter_async_context(connect(server, era))
        yield Whole(client, enforced, ruling, manager, settings)


async def _docker(instance: str) -> DockerEngine:
    async with open_images() as images:
        await build(images, DEFAULT, report=lambda _: None)
    engine = DockerEngine(Owner(instance, uuid4().hex), tag_of)
    await engine.probe()
    return engine


async def _nothing_to_check(policy: Policy) -> None:
    """The engine was asked already what it can do."""


async def until(holds: Any) -> None:
    with anyio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
            await anyio.sleep(0.01)
