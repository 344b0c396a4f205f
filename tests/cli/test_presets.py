"""The shipped policies in a server."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sandbox_server.shipped import shipped

from .conftest import Deployment
from .stdio import serving

SANDBOX = {"code_execution", "filesystem"}
TOOLS = {
    "default": SANDBOX | {"process", "sandbox"},
    "airgapped": SANDBOX | {"process", "sandbox"},
    "data-analysis": SANDBOX | {"sandbox", "database"},
}


def serve(deployment: Deployment, name: str) -> Any:
    policy = shipped("policies") / f"{name}.yaml"
    # An address that nobody answers at: nothing asks the database before a query does.
    environ = {**deployment.environ, "SANDBOX_SECRET_SALES_DSN": "postgresql://reader@127.0.0.1:1/sales"}
    return serving(deployment.command("serve", "--policy", str(policy)), environ)


@pytest.mark.parametrize("name", TOOLS)
async def test_a_preset_serves_its_tools_and_runs_programs(deployment: Deployment, name: str) -> None:
    with anyio.fail_after(60):
        async with serve(deployment, name) as peer:
            listed = await peer.request("tools/list")
            assert {tool["name"] for tool in listed["tools"]} == TOOLS[name]
            result = await peer.execute("import pandas; print(6 * 7)")
            assert result["structuredContent"]["stdout"] == "42\n"


def test_a_preset_needs_its_secret_to_serve_and_for_nothing_else(deployment: Deployment) -> None:
    policy = str(shipped("policies") / "data-analysis.yaml")
    done = deployment.run("run", "--policy", policy, "-", input="print(6 * 7)")
    assert (done.stdout, done.returncode) == ("42\n", 0)
    done = deployment.run("serve", "--policy", policy)
    assert done.returncode == 78
    assert "SANDBOX_SECRET_SALES_DSN" in done.stderr


async def test_a_team_gives_nothing_to_a_caller_without_a_token(deployment: Deployment) -> None:
    with anyio.fail_after(60):
        async with serve(deployment, "team") as peer:
            assert (await peer.request("tools/list"))["tools"] == []
