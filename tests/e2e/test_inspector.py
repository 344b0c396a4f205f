"""The Inspector, a client that is not ours and not the Python SDK's, against the whole product."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node.npm import NodeTools, install

SERVE = [sys.executable, "-m", "sandbox_server", "serve"]
ROOT = Path(__file__).parents[2]
ERAS = ["legacy", "modern"]
START_SECONDS = 60
TOKENS = 2500
"""What a model may pay for all tools, at four characters each."""
DEFAULT_TOOLS = ["code_execution", "filesystem", "sandbox", "process"]


@pytest.fixture(scope="module")
def node() -> NodeTools:
    return install()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on a free port of this machine."""
    with served() as address:
        yield address


@contextmanager
def served() -> Iterator[str]:
    command = [*SERVE, "--transport", "http", "--port", "0", "--no-auth"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        deadline = threading.Timer(START_SECONDS, process.kill)
        deadline.start()
        log: list[str] = []
        try:
            address = next((found for line in process.stderr if (found := _address(line, log))), None)
            assert address is not None, "".join(log)
            deadline.cancel()
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield address
        finally:
            deadline.cancel()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _address(line: str, log: list[str]) -> str | None:
    log.append(line)
    words = line.replace('"', " ").replace("=", " ").replace(",", " ").split()
    return next((word for word in words if word.startswith("http://") and word.endswith("/mcp")), None)


def inspect(node: NodeTools, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        node.inspector(*arguments),
        cwd=ROOT,
        env={
            **node.environment(),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def printed(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


STDIO = [*SERVE, "--transport", "stdio"]
LIST = ["--method", "tools/list", "--strict"]
CALL = ["--method", "tools/call", "--tool-name", "code_execution", "--tool-arg"]


@pytest.mark.parametrize("era", ERAS)
def test_the_tools_are_listed_over_stdio_without_a_portability_problem(node: NodeTools, era: str) -> None:
    result = inspect(node, *STDIO, "--protocol-era", era, *LIST)
    assert [tool["name"] for tool in printed(result)["tools"]] == DEFAULT_TOOLS
    assert "Warning: tool" not in result.stderr


@pytest.mark.parametrize("era", ERAS)
def test_the_tools_are_listed_over_http_without_a_portability_problem(
    node: NodeTools, url: str, era: str
) -> None:
    result = inspect(node, url, "--protocol-era", era, *LIST)
    assert [tool["name"] for tool in printed(result)["tools"]] == DEFAULT_TOOLS
    assert "Warning: tool" not in result.stderr


@pytest.mark.parametrize("era", ERAS)
def test_every_tool_that_there_is_is_portable_and_all_together_are_short(node: NodeTools, era: str) -> None:
    secret = ("-e", "SANDBOX_SECRET_SHOP_DSN=sqlite:////nonexistent/shop.db")
    policy = ("--policy", "demo/policy.yaml")
    result = inspect(node, *secret, *STDIO, *policy, "--protocol-era", era, *LIST)
    tools = printed(result)["tools"]
    assert [tool["name"] for tool in tools] == [*DEFAULT_TOOLS, "web_api", "database"]
    assert "Warning: tool" not in result.stderr
    assert len(json.dumps(tools, separators=(",", ":"))) / 4 < TOKENS


@pytest.mark.parametrize("era", ERAS)
def test_code_runs_over_stdio(node: NodeTools, era: str) -> None:
    answer = printed(inspect(node, *STDIO, "--protocol-era", era, *CALL, "code=print(6 * 7)"))
    assert answer["structuredContent"]["stdout"] == "42\n"
    assert answer["structuredContent"]["outcome"] == "ok"


@pytest.mark.parametrize("era", ERAS)
def test_code_runs_over_http(node: NodeTools, url: str, era: str) -> None:
    answer = printed(inspect(node, url, "--protocol-era", era, *CALL, "code=print(6 * 7)"))
    assert answer["structuredContent"]["stdout"] == "42\n"
    assert answer["structuredContent"]["outcome"] == "ok"


def test_a_program_that_fails_is_no_failure_of_the_tool(node: NodeTools, url: str) -> None:
    answer = printed(inspect(node, url, *CALL, "code=raise SystemExit(3)"))
    assert answer["structuredContent"]["exit_code"] == 3
    assert answer.get("isError", False) is False


def test_bad_arguments_are(node: NodeTools, url: str) -> None:
    result = inspect(node, url, *CALL, "code=print(1)", "--tool-arg", "language=cobol")
    assert result.returncode != 0
    assert "did you mean" not in result.stdout
    assert "unknown language 'cobol'" in result.stdout
