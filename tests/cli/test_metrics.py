"""`/metrics` of a real server: what it counts is what the decision log has, line by line."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from mcp import Client
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as parsed

from .conftest import Deployment
from .stdio import serving
from .test_policy_in_force import FETCH, _record, open_to

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
HTTP = ("serve", "--transport", "http", "--port", "0", "--no-auth")


@contextmanager
def running(deployment: Deployment, *command: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The base URL of a server, and what it has logged when it has stopped."""
    logged: list[dict[str, Any]] = []
    with subprocess.Popen(
        deployment.command(*command), env=deployment.environ, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            lines = (json.loads(line) for line in server.stderr)
            url = next(line["url"] for line in lines if line["event"] == "listening")
            yield url.removesuffix("/mcp"), logged
            server.send_signal(signal.SIGTERM)
            logged += lines
            assert server.wait(20) == 0
        finally:
            server.kill()


def scrape(url: str, **headers: str) -> dict[str, Metric]:
    request = urllib.request.Request(f"{url}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return {each.name: each for each in parsed(answer.read().decode())}


def counts(found: dict[str, Metric], name: str, *labels: str) -> Counter[tuple[str, ...]]:
    tally: Counter[tuple[str, ...]] = Counter()
    for sample in found[name].samples if name in found else ():
        if sample.name.endswith("_total") or found[name].type == "gauge":
            tally[tuple(sample.labels[label] for label in labels)] += int(sample.value)
    return tally


async def until_counted(url: str, name: str, count: int) -> dict[str, Metric]:
    """Connections are counted when they have ended, of which nobody tells."""
    while True:
        found = await anyio.to_thread.run_sync(scrape, url)
        if counts(found, name).total() >= count:
            return found
        await anyio.sleep(0.05)


async def work(url: str, port: int) -> None:
    """Some of everything, twice as much of it refused as a server of this size likes."""
    site = f"http://127.0.0.1:{port}"
    async with (
        httpx2.AsyncClient(headers={"traceparent": PARENT}) as traced,
        Client(f"{url}/mcp", mode="2026-07-28") as client,
    ):
        code = FETCH.format(port=port, paths=["/open/b", "/elsewhere"])
        for asked in ({"code": "print(1)"}, {"code": "raise SystemExit(3)"}, {"code": code}, {"code": 7}):
            await client.call_tool("code_execution", asked)
        for path in ("/open/a", "/elsewhere", "/away"):
            await client.call_tool("web_api", {"method": "GET", "url": site + path})
        await client.call_tool("web_api", {"method": "GET", "url": "http://minted.example/by-a-caller"})
        for query in ("select * from orders", "delete from orders"):
            await client.call_tool("database", {"query": query})
        await client.call_tool("database", {"query": "select 1", "database": "minted"})
        for language in ("python", "cobol"):
            await call_by_hand(traced, url, language)


async def call_by_hand(http: httpx2.AsyncClient, url: str, language: str) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "code_execution",
            "arguments": {"code": "print(2)", "language": language},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "code_execution",
    }
    answer = await http.post(f"{url}/mcp", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200


async def test_what_is_counted_is_what_the_decision_log_has(deployment: Deployment) -> None:
    with open_to(deployment) as port, anyio.fail_after(100):
        with running(deployment, *HTTP) as (url, _):
            await work(url, port)
            found = await until_counted(url, "sandbox_egress_connections", 2)
        record = _record(deployment)
    decisions = [each for each in record if each["kind"] == "decision"]
    assert counts(found, "sandbox_policy_decisions", "tool", "verdict", "rule") == Counter(
        (each["tool"], each["decision"], each["rule"]) for each in decisions
    )
    outcomes = [each for each in record if each["kind"] == "outcome"]
    of_call = {each["decision_id"]: each for each in decisions}
    told = Counter((of_call[each["decision_id"]]["tool"], each["outcome"]) for each in outcomes)
    told["code_execution", "invalid_request"] += 2  # of what is no call, nothing is decided
    assert counts(found, "sandbox_tool_calls", "tool", "outcome") == told
    assert counts(found, "sandbox_runs", "language", "outcome") == {
        ("python", "ok"): 3,
        ("python", "error"): 1,
    }
    assert sum(counts(found, "sandbox_runs", "sandbox")[each,] for each in ("warm", "cold")) == 4

    requests = [each for each in record if each["kind"] == "request"]
    refused_at_once = sum(each["tool"] == "web_api" and each["decision"] == "deny" for each in decisions) - 1
    assert refused_at_once == 2, "the third is a redirect's"
    web = counts(found, "sandbox_web_requests", "verdict", "status", "hop")
    assert web == {
        ("allowed", "2xx", "first"): 1,
        ("allowed", "3xx", "first"): 1,
        ("denied", "", "redirect"): 1,
        ("denied", "", "first"): 2,
    }
    sent, received = (sum(each[way] for each in requests) for way in ("bytes_out", "bytes_in"))
    assert counts(found, "sandbox_web_sent_bytes", "host") == {(f"127.0.0.1:{port}",): sent}
    assert counts(found, "sandbox_web_received_bytes", "host") == {(f"127.0.0.1:{port}",): received}

    connections = [each for each in record if each["kind"] == "connection"]
    assert counts(found, "sandbox_egress_connections", "verdict", "kind", "rule", "host") == Counter(
        (each["verdict"], each["protocol"], each["rule"], each["pattern"]) for each in connections
    )
    for way, name in (("bytes_out", "sent"), ("bytes_in", "received")):
        total = sum(each[way] for each in connections)
        assert counts(found, f"sandbox_egress_{name}_bytes").total() == total > 0
        mine = counts(found, "sandbox_principal_bytes", "principal", "kind", "direction")
        assert mine["anonymous", "egress", name] == total

    statements = counts(found, "sandbox_database_statements", "database", "operation", "outcome")
    assert statements["shop", "select", "ok"] == 1
    assert sum(statements.values()) == 3
    assert counts(found, "sandbox_database_rows", "database", "operation") == {("shop", "select"): 1}
    text = json.dumps([[sample.labels for sample in each.samples] for each in found.values()])
    assert "minted" not in text, "what a caller or a program calls things is no label"
    assert counts(found, "sandbox_engine_up") == {(): 1}
    assert counts(found, "sandbox_pool_wanted") == {(): 1}


async def test_each_hop_has_a_line_of_its_own_and_a_call_its_trace(deployment: Deployment) -> None:
    with open_to(deployment) as port, anyio.fail_after(100):
        with running(deployment, *HTTP) as (url, logged):
            await work(url, port)
        record = _record(deployment)
    calls = {each["decision_id"]: each for each in record if each["kind"] == "decision"}
    requests = [each for each in record if each["kind"] == "request"]
    shown = [
        (
            each["number"],
            each["verdict"],
            each["status"],
            each["url"].removeprefix(f"http://127.0.0.1:{port}"),
        )
        for each in requests
    ]
    assert shown == [
        (0, "allowed", 200, "/open/a"),
        (0, "allowed", 302, "/away"),
        (1, "denied", 0, "/elsewhere"),
    ]
    assert requests[1]["call"] == requests[2]["call"]
    assert calls[requests[1]["call"]]["args"]["url"].endswith("/away")
    for each in requests:
        assert (each["host"], each["port"], each["principal"]["sub"]) == ("127.0.0.1", port, "anonymous")
        assert each["seconds"] >= 0
    assert requests[0]["rule"] == requests[1]["rule"] == "roles.basic.web.allow[0]"
    assert requests[2]["rule"] == "default"
    assert (requests[0]["address"], requests[2]["address"]) == ("127.0.0.1", "")
    assert requests[0]["bytes_in"] > 15 < requests[0]["bytes_out"]
    assert (requests[2]["bytes_in"], requests[2]["bytes_out"]) == (0, 0)
    traced = [each for each in calls.values() if each["trace_id"]]
    assert [(each["trace_id"], each["tool"]) for each in traced] == [(TRACE, "code_execution")]
    failed = [(each["tool"], each["code"]) for each in logged if each.get("trace_id") == TRACE]
    assert failed == [("code_execution", "invalid_request")], "and in the server's own log"
    assert TRACE not in json.dumps([each for each in logged if each["event"] == "web_request"])
    assert deployment.run("audit", "verify").returncode == 0


async def test_over_stdio_they_are_served_at_an_address_of_their_own(deployment: Deployment) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with anyio.fail_after(60):
        command = deployment.command("serve", "--metrics", f"127.0.0.1:{port}")
        async with serving(command, deployment.environ) as peer:
            await peer.execute("print(1)")
            meta = {"traceparent": PARENT}
            asked = {"name": "code_execution", "arguments": {"code": "print(2)"}, "_meta": meta}
            await peer.request("tools/call", asked)
            broken = {**asked, "_meta": {"traceparent": PARENT.upper()}}
            await peer.request("tools/call", broken)
            found = await anyio.to_thread.run_sync(scrape, url)
            assert counts(found, "sandbox_tool_calls", "tool", "outcome") == {("code_execution", "ok"): 3}
            assert counts(found, "sandbox_sessions") == {(): 1}
            async with httpx2.AsyncClient() as http:
                for wrong, name, status in (
                    ("Host", "evil.example", 421),
                    ("Origin", "http://evil.example", 403),
                ):
                    answer = await http.get(f"{url}/metrics", headers={wrong: name})
                    assert answer.status_code == status
    decisions = [each for each in _record(deployment) if each["kind"] == "decision"]
    assert [each["trace_id"] for each in decisions] == ["", TRACE, ""]


async def test_nothing_that_is_let_out_reaches_the_metrics(deployment: Deployment) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/metrics"
    deployment.policy.write_text(
        "schema: sandbox-policy/v1\n"
        "roles: {basic: {tools: {allow: [web_api]}, web: {allow: [{\n"
        f'  hosts: ["127.0.0.1:{port}"], schemes: [http], addresses: ["127.0.0.1/32"]}}]}}}}}}\n'
        "deployment: {warm: 0}\n"
    )
    with anyio.fail_after(60):
        command = deployment.command("serve", "--metrics", f"127.0.0.1:{port}")
        async with serving(command, deployment.environ) as peer:
            asked = {"name": "web_api", "arguments": {"method": "GET", "url": url}}
            refused = (await peer.request("tools/call", asked))["structuredContent"]
    assert (refused["code"], refused["rule"]) == ("policy_denied", "floor.address")
    assert "a port of this server" in refused["message"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("0.0.0.0:0", "would tell anyone who reaches this machine"),
        ("example.com:80", "would tell anyone who reaches this machine"),
        ("9464", "is not HOST:PORT"),
        ("127.0.0.1:", "is not HOST:PORT"),
        ("127.0.0.1:99999", "is not HOST:PORT"),
        ("127.0.0.1:000000999999", "is not HOST:PORT"),
        ("127.0.0.1:٣", "is not HOST:PORT"),
    ],
)
def test_an_address_that_is_none_or_not_ours_alone_stops_the_start(
    deployment: Deployment, address: str, said: str
) -> None:
    done = deployment.run("serve", "--metrics", address)
    assert done.returncode == 78
    assert re.sub(r"\s+", " ", done.stderr).count(said) == 1


def test_a_port_that_is_taken_stops_the_start(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = deployment.run("serve", SANDBOX_SERVER_METRICS=address)
    assert done.returncode == 78
    assert f"Cannot listen on {address}" in done.stderr
    assert deployment.containers() == set()
