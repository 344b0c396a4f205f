"""A real manager whose sandboxes install packages from the real indexes, by a policy."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio

from sandbox_server.access.egress.authority import Authority
from sandbox_server.access.egress.cache import FileCache
from sandbox_server.access.egress.gateway import Gateway
from sandbox_server.access.egress.indexes import NPM, PYTHON, Indexes
from sandbox_server.access.egress.models import Connect, ConnectionRecord
from sandbox_server.access.egress.trust import host_roots, sandbox_bundle, server_context
from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.docker.images import open_images
from sandbox_server.errors import PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import RunLimits, RunRequest, RunResult
from sandbox_server.guards.addresses import judge as judge_address
from sandbox_server.guards.web import EgressGrant, EgressLimits
from sandbox_server.images.build import build
from sandbox_server.images.recipes import DEFAULT, tag_of
from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.engine import decide
from sandbox_server.policy.loader import parse_policy

POLICY = """
schema: sandbox-policy/v1
ceilings: {{wall: 2m, cpu: 2m, memory: 1GiB, workspace: 256MiB}}
roles:
  basic:
    tools: {{allow: [code_execution, sandbox]}}
    code:
      egress: packages
      packages: ["six", "click", "numpy", docopt, plotly, left-pad, "is-*", esbuild, "@types/*", "no-such-*"]
      defaults: {{wall: 60s, cpu: 60s, memory: 512MiB, workspace: 96MiB, pids: 128}}
      languages: {{python: {{}}, bash: {{image: python}}, javascript: {{}}, typescript: {{}}}}
egress:
  profiles:
    packages:
      allow: [{{id: index, hosts: ["@python-index", "@npm-index"], terminate: true, cache: true{opened}}}]
"""


@dataclass
class Place:
    manager: Manager
    cache: FileCache
    records: list[ConnectionRecord] = field(default_factory=list)

    async def run(
        self,
        code: str,
        *packages: str,
        language: str = "python",
        connection: str | None = None,
        session: str | None = None,
        wall: float = 60.0,
    ) -> RunResult:
        request = RunRequest(language, code, limits=RunLimits(wall=wall), packages=packages)
        caller = Caller(connection=connection)
        return await self.manager.run(request, caller=caller, on_event=lambda _: None, session=session)


def reserved(hosts: tuple[str, ...]) -> list[str]:
    """The addresses that a policy must open here: those of a gateway, where there is one."""
    found = {ip_address(each[4][0]) for host in hosts for each in socket.getaddrinfo(host.split(":")[0], 443)}
    return [f"{address}/{address.max_prefixlen}" for address in found if judge_address(address)]


@asynccontextmanager
async def open_place(directory: Path) -> AsyncIterator[Place]:
    async with open_images() as images:
        await build(images, DEFAULT, report=lambda _: None)
    indexes = Indexes(directory)
    opened = reserved(indexes.resolve(PYTHON) + indexes.resolve(NPM))
    text = POLICY.format(opened=f", addresses: {opened}".replace("'", '"') if opened else "")
    policy = parse_policy(text.encode(), source="test", aliases=indexes.resolve)
    records: list[ConnectionRecord] = []
    authority = Authority.load(directory)
    cache = FileCache(directory / "files")
    gateway = Gateway(
        lambda connect: judged(policy, connect),
        lambda profile: EgressLimits(),
        on_connection=records.append,
        authority=authority,
        trust=sandbox_bundle(b"", authority),
        tls=server_context(host_roots()),
        environment=indexes.environment,
        cache=cache,
    )
    engine = DockerEngine(Owner(f"packages{uuid4().hex[:12]}", uuid4().hex), tag_of)
    await engine.probe()
    grants = {name: replace(grant, egress="packages") for name, grant in policy.grants.items()}
    grants["python-inside"] = policy.grants["python"]
    async with anyio.create_task_group(), Manager(engine, grants, Sizing(warm=0), egress=gateway) as manager:
        yield Place(manager, cache, records)


def judged(policy: Any, connect: Connect) -> EgressGrant:
    where: dict[str, Any] = {"profile": connect.profile, "host": connect.host, "port": connect.port}
    where["scheme"] = connect.scheme
    if connect.method is not None:
        where |= {"method": connect.method, "path": connect.path}
    decision = decide(policy, Principal(), Request("egress", where))
    if decision.effect != "allow" or not isinstance(decision.grant, EgressGrant):
        raise PolicyDenied(decision.message, rule=decision.rule, hint=decision.hint)
    return decision.grant
