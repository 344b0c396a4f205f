"""The server as it is served: every tool and resource behind the policy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sandbox_server.access.database.databases import Databases
from sandbox_server.access.http.models import WebClient
from sandbox_server.enforcement.gate import Gate
from sandbox_server.enforcement.web import web_judge
from sandbox_server.execution.api import Executor
from sandbox_server.policy.decision import Principal
from sandbox_server.protocol.api_resources import ApiProvider
from sandbox_server.protocol.asking import Asking
from sandbox_server.protocol.gate import PolicyGate
from sandbox_server.protocol.policy_resource import PolicyResource
from sandbox_server.protocol.server import SandboxMcpServer, build_server
from sandbox_server.protocol.tools import Context
from sandbox_server.protocol.web_api import WebAccess


def guarded_server(
    executor: Executor,
    gate: Gate,
    who: Callable[[Context], Principal],
    *,
    version: str,
    web: WebClient,
    databases: Databases,
    asking: Asking | None = None,
) -> SandboxMcpServer:
    """`who` says whose requests come with a context."""
    access = WebAccess(web, partial(web_judge, gate))
    server = build_server(
        executor,
        version=version,
        web=access,
        databases=databases,
        gate=PolicyGate(gate, who, asking),
        metrics=gate.metrics,
        providers=(PolicyResource(gate.current), ApiProvider(access, gate.current)),
    )
    gate.current.on_change(lambda policy: server.changes.changed())
    return server
