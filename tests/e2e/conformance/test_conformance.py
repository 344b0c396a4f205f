"""The official conformance suite against the real server object on a real port."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from mcp import Client

from sandbox_server.protocol.server import Extra, build_server
from sandbox_server.transports.http import HttpSettings, serve_http
from tests.e2e.conformance.fixtures import conformance_fixtures
from tests.e2e.node.npm import NodeTools
from tests.protocol.fake_executor import FakeExecutor

# The fixtures use the logging capability, which the suite still asks for.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

REVISIONS = ["2025-11-25", "2026-07-28"]
TIMESTAMP = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")


@asynccontextmanager
async def served(extra: Extra | None) -> AsyncIterator[str]:
    urls: list[str] = []
    ready = anyio.Event()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve() -> None:
        server = build_server(FakeExecutor(), version="0", extra=extra)
        await serve_http(server, HttpSettings(port=0, shutdown_grace=1), on_ready=on_ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await ready.wait()
        yield f"{urls[0]}/mcp"
        tasks.cancel_scope.cancel()


async def run_suite(
    node: NodeTools, url: str, results: Path, *arguments: str
) -> dict[str, list[dict[str, Any]]]:
    """The checks by scenario."""
    # The suite tests Host checks only of a server that it is told is on localhost.
    command = node.conformance(
        "server", "--url", url.replace("127.0.0.1", "localhost"), "--output-dir", str(results), *arguments
    )
    with anyio.fail_after(120):
        await anyio.run_process(command, check=False, stderr=subprocess.STDOUT, env=node.environment())
    return {
        TIMESTAMP.sub("", path.parent.name).removeprefix("server-"): json.loads(path.read_text())
        for path in results.glob("*/checks.json")
    }


def failures(checks: list[dict[str, Any]]) -> list[str]:
    return [
        f"{check['id']}: {check.get('errorMessage', check['status'])}"
        for check in checks
        if check["status"] not in ("SUCCESS", "INFO")
    ]


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_required_scenario_passes_without_a_warning(
    node: NodeTools, tmp_path: Path, revision: str
) -> None:
    required = yaml.safe_load(node.requirements(revision).read_text())["server"]
    async with served(conformance_fixtures()) as url:
        scenarios = await run_suite(node, url, tmp_path, "--requirements", revision)
    assert len(required) >= 30
    assert set(required) <= scenarios.keys()
    assert {name: failures(scenarios[name]) for name in required if failures(scenarios[name])} == {}
    for name in required:
        assert any(check["status"] == "SUCCESS" for check in scenarios[name]), name


async def test_the_fixtures_are_what_the_suite_talks_to() -> None:
    # Two of its scenarios pass even if their tool is missing.
    async with served(conformance_fixtures()) as url, Client(url, mode="legacy") as client:
        simple = await client.call_tool("test_simple_text", {})
        failing = await client.call_tool("test_error_handling", {})
        names = [tool.name for tool in (await client.list_tools()).tools]
    assert simple.content[0].text == "This is a simple text response for testing."
    assert failing.is_error
    assert "intentionally" in failing.content[0].text
    assert names[0] == "code_execution"


async def test_a_scenario_that_fails_is_noticed(node: NodeTools, tmp_path: Path) -> None:
    async with served(None) as url:
        scenarios = await run_suite(node, url, tmp_path, "--scenario", "tools-call-image")
    assert failures(scenarios["tools-call-image"])


async def test_without_the_switch_no_fixture_is_served() -> None:
    async with served(None) as url, Client(url, mode="legacy") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["code_execution", "filesystem", "sandbox", "process"]
        assert client.server_capabilities.prompts is None
