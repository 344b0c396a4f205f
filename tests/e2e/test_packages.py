"""Packages as a client gets them: from a server with a policy file to the real index and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from sandbox_server.access.egress.indexes import PYTHON, Indexes
from sandbox_server.engines.docker.images import open_images
from sandbox_server.images.build import build
from sandbox_server.images.recipes import DEFAULT
from tests.access.egress.package_place import reserved

pytestmark = pytest.mark.anyio

POLICY = """
schema: sandbox-policy/v1
deployment: {warm: 0}
roles:
  basic:
    tools: {allow: [code_execution]}
    code: {egress: packages, packages: [six], languages: {python: {}}}
egress:
  profiles:
    packages: {allow: [{hosts: ["@python-index"], terminate: true, cache: true, addresses: ADDRESSES}]}
"""


async def test_a_client_gets_a_package_and_every_connection_for_it_is_on_record(tmp_path: Path) -> None:
    async with open_images() as images:
        await build(images, DEFAULT, report=lambda _: None)
    hosts = Indexes(tmp_path).resolve(PYTHON)
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("ADDRESSES", json.dumps(reserved(hosts))))
    command = [
        "-m",
        "sandbox_server",
        "serve",
        "--policy",
        str(policy),
        "--state-dir",
        str(tmp_path / "state"),
    ]
    server = StdioServerParameters(command=sys.executable, args=command)
    async with stdio_client(server) as streams, ClientSession(*streams) as client:
        await client.initialize()

        async def run(*packages: str) -> Any:
            arguments = {"code": "import six; print(six.__version__)", "packages": list(packages)}
            return await client.call_tool("code_execution", arguments)

        done = (await run("six==1.17.0")).structured_content
        assert done["outcome"] == "ok", done["stderr"]
        assert done["stdout"] == "1.17.0\n"
        assert done["packages"]["installed"] == [{"name": "six", "version": "1.17.0"}]
        refused = await run("requests")
        assert refused.is_error
        assert "policy_denied" in refused.content[0].text
    logged = [
        json.loads(line)
        for file in (tmp_path / "state" / "decisions").rglob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    reached = {line["host"] for line in logged if line.get("kind") == "connection"}
    assert reached == {host.partition(":")[0] for host in hosts}
