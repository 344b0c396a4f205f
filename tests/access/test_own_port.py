"""E18 in a real server process over HTTP: its own port, at an address that its policy opens."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest

from tests.access.http.lab import answer, serve
from tests.cgroups import remove_groups
from tests.cli.conftest import Deployment
from tests.transports.http_server import MODERN, modern_call

pytestmark = pytest.mark.anyio

POLICY = """
schema: sandbox-policy/v1
roles:
  basic:
    tools: {allow: [web_api, code_execution]}
    web: {allow: [{hosts: HOSTS, schemes: [http], addresses: ["127.0.0.1/32"]}]}
    code: {egress: site, languages: {python: {}}}
egress:
  profiles:
    site: {allow: [{hosts: HOSTS, addresses: ["127.0.0.1/32"]}]}
deployment: {warm: 0, sandboxes: 2}
"""
PROGRAM = """
import os, socket
from urllib.parse import urlsplit
where = urlsplit(os.environ["HTTP_PROXY"])
for port in PORTS:
    with socket.create_connection((where.hostname, where.port), 10) as s:
        s.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.0\\r\\n\\r\\n" % port)
        print(s.recv(1000).split()[1].decode())
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@asynccontextmanager
async def listening(deployment: Deployment, port: int) -> AsyncIterator[str]:
    """The URL of a server process over HTTP."""
    command = deployment.command("serve", "--transport", "http", "--port", str(port), "--no-auth")
    process = subprocess.Popen(command, env=deployment.environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = (json.loads(line) for line in process.stderr)
    try:
        yield await anyio.to_thread.run_sync(
            lambda: next(line["url"] for line in lines if line["event"] == "listening")
        )
    finally:
        process.terminate()
        await anyio.to_thread.run_sync(process.communicate)
        for instance in deployment.instances():
            remove_groups(instance)


async def test_e18_a_server_over_http_is_out_of_its_own_reach(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    own = free_port()
    with anyio.fail_after(60):
        async with serve(answer()) as other:
            ports = [other.port, own]
            policy.write_text(POLICY.replace("HOSTS", json.dumps([f"127.0.0.1:{port}" for port in ports])))
            deployment = Deployment(tmp_path / "state", policy, None)  # type: ignore[arg-type]
            async with listening(deployment, own) as url, httpx2.AsyncClient(timeout=60) as http:

                async def call(tool: str, **arguments: Any) -> dict[str, Any]:
                    body = modern_call(arguments)
                    body["params"]["name"] = tool
                    headers = {**MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
                    told = (await http.post(url, json=body, headers=headers)).json()
                    facts: dict[str, Any] = told["result"]["structuredContent"]
                    return facts

                reached = await call("web_api", method="GET", url=f"http://127.0.0.1:{other.port}/")
                assert reached["status"] == 200
                refused = await call("web_api", method="GET", url=f"http://127.0.0.1:{own}/healthz")
                assert refused["code"] == "policy_denied"
                assert "a port of this server" in refused["message"]
                done = await call("code_execution", code=PROGRAM.replace("PORTS", str(ports)))
                assert done["stdout"].split() == ["200", "403"]
