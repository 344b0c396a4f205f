"""The real server as a process of its own, and real MCP clients of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import yaml
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from bench.dockerapi import DockerApi

ROOT = Path(__file__).parent.parent
POLICY = Path(__file__).parent / "policy.yaml"
START_SECONDS = 30.0
STOP_SECONDS = 40.0


@dataclass
class Server:
    """A server that answers. `instance` is the label of its containers."""

    url: str
    pid: int
    instance: str
    warm: int

    def memory(self, key: str = "Rss") -> int:
        return process_memory(self.pid, key)

    async def quiet(self, api: DockerApi, *, settle: float = 0.15, most: float = 60.0) -> None:
        """Wait until nothing but the warm sandboxes is there and those have had time to get ready."""
        with anyio.fail_after(most):
            while not self._is_filled(api):  # noqa: ASYNC110 - the engine has no event for "as many as"
                await anyio.sleep(0.05)
            await anyio.sleep(settle)

    def _is_filled(self, api: DockerApi) -> bool:
        return len(self.containers(api)) == len(self.containers(api, running=True)) == self.warm

    def containers(self, api: DockerApi, *, running: bool = False) -> list[str]:
        return api.labelled(f"sbx.instance={self.instance}", running=running)


def process_memory(pid: int, key: str = "Pss") -> int:
    """Bytes: one line of a process's memory map totals, such as Rss or Pss."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    raise KeyError(key)


def reset_peak(pid: int) -> None:
    """Let VmHWM begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pid: int) -> int:
    """Bytes: the most that a process has held since `reset_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise KeyError("VmHWM")


def write_policy(
    directory: Path,
    name: str,
    *,
    preload: tuple[str, ...] = (),
    limits: dict[str, Any] | None = None,
    **deployment: Any,
) -> Path:
    """`policy.yaml` with some values changed."""
    policy = yaml.safe_load(POLICY.read_text())
    code = policy["roles"]["bench"]["code"]
    code["languages"]["python"]["preload"] = list(preload)
    code["languages"]["python"].update(limits or {})
    policy["deployment"].update(deployment)
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(policy, sort_keys=False))
    return path


def command(directory: Path, name: str, policy: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "sandbox_server", "--log-level", "warning", "serve"),
        *("--policy", str(policy), "--state-dir", str(directory / "state"), "--instance", f"bench-{name}"),
        *more,
    ]


def instance_id(directory: Path, name: str) -> str:
    return (directory / "state" / f"instance-bench-{name}").read_text().strip()


def instance_ids(directory: Path) -> list[str]:
    """The labels of every server that was started here."""
    return [path.read_text().strip() for path in (directory / "state").glob("instance-*")]


@asynccontextmanager
async def http_server(directory: Path, name: str, *, warm: int = 4, **policy: Any) -> AsyncIterator[Server]:
    """A server on streamable HTTP; stopped in an orderly way at the end."""
    file = write_policy(directory, name, warm=warm, **policy)
    port = _free_port()
    arguments = command(directory, name, file, "--transport", "http", "--port", str(port), "--no-auth")
    with (directory / f"{name}.log").open("wb") as log:
        # A session of its own: Ctrl-C is for us to pass on, in order.
        process = subprocess.Popen(
            arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        await _answers(f"http://127.0.0.1:{port}/healthz", process, directory / f"{name}.log")
        yield Server(f"http://127.0.0.1:{port}/mcp", process.pid, instance_id(directory, name), warm)
    finally:
        process.send_signal(signal.SIGTERM)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_wait_or_kill, process)


@asynccontextmanager
async def stdio_client_of(directory: Path, name: str, **policy: Any) -> AsyncIterator[Client]:
    """A client with a server of its own on stdio."""
    file = write_policy(directory, name, **policy)
    first, *rest = command(directory, name, file)
    with (directory / f"{name}.log").open("w") as log:
        parameters = StdioServerParameters(command=first, args=rest, cwd=ROOT)
        async with Client(stdio_client(parameters, errlog=log), cache=None) as client:
            yield client


@asynccontextmanager
async def http_client(server: Server, *, session: bool) -> AsyncIterator[Client]:
    """`session`: a connection that keeps state (legacy era); otherwise every request stands alone."""
    async with Client(server.url, mode="legacy" if session else "2026-07-28", cache=None) as client:
        await client.list_tools()
        yield client


async def run_code(client: Client, code: str, **arguments: Any) -> dict[str, Any]:
    """The structured result of one `code_execution`. Raises RuntimeError if the server refuses."""
    result = await client.call_tool("code_execution", {"code": code, **arguments})
    content: dict[str, Any] = result.structured_content or {}
    if result.is_error or "outcome" not in content:
        raise RuntimeError(f"the server answers: {content or result.content}")
    return content


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    with anyio.fail_after(START_SECONDS):
        while not await anyio.to_thread.run_sync(_healthy, url):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended at once:\n{log.read_text()[-2000:]}")
            await anyio.sleep(0.05)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
