"""A served policy, from the file to real sandboxes, a real database and a server on loopback."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.subscriptions import ToolsListChanged

from .conftest import Deployment, until
from .stdio import Peer, serving

pytestmark = pytest.mark.anyio


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = f"{self.path} {self.headers.get('X-Key', '')}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to the test's output."""


@contextmanager
def site() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def outside(port: int) -> str:
    return f"""
schema: sandbox-policy/v1
roles:
  basic:
    tools: {{allow: [code_execution, filesystem, web_api, database]}}
    code:
      languages: {{python: {{}}}}
      egress: site
    files:
      allow: [{{path: "/workspace/**", ops: [read, write, list, delete]}}]
      deny: [{{path: "**/private/**", ops: [read, list, write, delete]}}]
    web:
      allow:
        - hosts: ["127.0.0.1:{port}"]
          schemes: [http]
          paths: ["/open/**", "/away"]
          addresses: ["127.0.0.1/32"]
          inject: {{X-Key: "secret://site_key"}}
    databases:
      shop:
        dsn: secret://shop
        dialect: sqlite
        relations: {{allow: [main.orders]}}
        columns: {{deny: [main.orders.card]}}
egress:
  profiles:
    site:
      allow:
        - hosts: ["127.0.0.1:{port}"]
          paths: ["/open/**"]
          addresses: ["127.0.0.1/32"]
resources:
  - api: {{name: front, url: "http://127.0.0.1:{port}/open/front"}}
deployment: {{warm: 1, sandboxes: 4}}
"""


@contextmanager
def open_to(deployment: Deployment) -> Iterator[int]:
    """The deployment with a site and a database; its secrets in files."""
    secrets = deployment.state / "secrets"
    secrets.mkdir(parents=True)
    database = deployment.state / "shop.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table orders (id integer primary key, total real, card text)")
        connection.execute("insert into orders values (1, 9.5, '4111')")
        connection.execute("create table staff (name text)")
    for name, value in (("site_key", "k3y-k3y-k3y"), ("shop", f"sqlite:///{database}")):
        (secrets / name).write_text(value)
        (secrets / name).chmod(0o600)
    with site() as port:
        deployment.policy.write_text(outside(port))
        yield port


async def call(peer: Peer, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await peer.request("tools/call", {"name": tool, "arguments": arguments})
    facts: dict[str, Any] = result["structuredContent"]
    return facts


FETCH = """
import http.client, os, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["http_proxy"])
for path in {paths!r}:
    link = http.client.HTTPConnection(proxy.hostname, proxy.port)
    link.request("GET", "http://127.0.0.1:{port}" + path)
    answer = link.getresponse()
    print(answer.status, answer.read().decode()[:200])
"""


async def test_web_database_and_way_out_work_from_a_policy_and_no_further_than_it_says(
    deployment: Deployment,
) -> None:
    with open_to(deployment) as port, anyio.fail_after(60):
        url = f"http://127.0.0.1:{port}"
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            names = {tool["name"] for tool in (await peer.request("tools/list"))["tools"]}
            assert names == {"code_execution", "filesystem", "web_api", "database"}

            seen = await call(peer, "web_api", method="GET", url=f"{url}/open/a")
            assert (seen["status"], seen["text"]) == (200, "/open/a [secret]"), "the key went along, unseen"
            refused = await call(peer, "web_api", method="GET", url=f"{url}/elsewhere")
            assert (refused["code"], refused["reason"]) == ("policy_denied", "web.path")
            refused = await call(peer, "web_api", method="GET", url=f"{url}/away")
            assert refused["code"] == "policy_denied"
            assert "redirected" in refused["message"]

            page = await peer.request("resources/read", {"uri": "api://front"})
            assert "/open/front" in page["contents"][0]["text"]

            rows = await call(peer, "database", query="select * from orders")
            assert rows["rows"] == [[1, 9.5]], "all columns but the one that is denied"
            for query in ("select card from orders", "select * from staff", "delete from orders"):
                refused = await call(peer, "database", query=query)
                assert refused.get("code") == "policy_denied", refused

            fetched = await call(
                peer, "code_execution", code=FETCH.format(port=port, paths=["/open/b", "/elsewhere"])
            )
            first, second = fetched["stdout"].splitlines()[:2]
            assert first == "200 /open/b "
            assert second.startswith("403")
            await peer.leave()
    record = _record(deployment)
    decisions = [each for each in record if each["kind"] == "decision"]
    reasons = [(each["tool"], each["decision"], each["reason"]) for each in decisions]
    assert ("web_api", "deny", "web.path") in reasons, "the redirect"
    assert ("database", "deny", "sql.relation") in reasons
    assert ("egress", "allow", "allowed") in reasons
    assert ("egress", "deny", "egress.path") in reasons
    connections = [each for each in record if each["kind"] == "connection"]
    assert [(each["verdict"], each["host"]) for each in connections] == [
        ("allowed", "127.0.0.1"),
        ("denied", "127.0.0.1"),
    ]
    assert connections[0]["bytes_in"] > 0
    assert "k3y-k3y-k3y" not in json.dumps(record)
    assert deployment.run("audit", "verify").returncode == 0


async def test_file_rules_hold_for_names_that_only_show_in_the_sandbox(deployment: Deployment) -> None:
    with open_to(deployment), anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            made = "import os\nos.makedirs('top/private')\nfor n in ('top/a', 'top/private/b'):\n"
            made += "    with open(n, 'w') as f: f.write('word')"
            await call(peer, "code_execution", code=made)
            listed = await call(peer, "filesystem", operation="list", recursive=True)
            assert [each["path"] for each in listed["result"]["entries"]] == ["top", "top/a"]
            found = await call(peer, "filesystem", operation="search", pattern="word")
            assert [each["path"] for each in found["result"]["matches"]] == ["top/a"]
            for refused in (
                await call(peer, "filesystem", operation="read", path="top/private/b"),
                await call(peer, "filesystem", operation="move", path="top", to="other"),
                await call(peer, "filesystem", operation="delete", path="top", recursive=True),
                await call(peer, "filesystem", operation="copy", path="top", to="other", recursive=True),
            ):
                assert (refused["code"], refused["rule"]) == ("policy_denied", "roles.basic.files.deny[0]")
            moved = await call(peer, "filesystem", operation="move", path="top/a", to="top/c")
            assert "code" not in moved
            resources = (await peer.request("resources/list"))["resources"]
            assert not any("private" in each["uri"] for each in resources)


async def test_a_hangup_puts_the_policy_of_the_file_in_force(deployment: Deployment) -> None:
    deployment.policy.write_text(_languages("{python: {}, bash: {image: python}}"))
    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            assert (await call(peer, "code_execution", code="echo hi", language="bash"))["stdout"] == "hi\n"
            (old,) = _revisions(deployment)
            deployment.policy.write_text(_languages("{python: {pids: 48}}"))
            peer.process.send_signal(signal.SIGHUP)
            await until(lambda: (now := _revisions(deployment)) and old not in now)
            refused = await call(peer, "code_execution", code="echo hi", language="bash")
            assert refused["code"] == "policy_denied"
            after = await call(peer, "code_execution", code="print(1)")
            assert after["stdout"] == "1\n"
            assert "the policy has changed" in after["session"]["note"]


async def test_the_operator_says_who_the_local_caller_is(deployment: Deployment, tmp_path: Path) -> None:
    deployment.policy.write_text(
        "schema: sandbox-policy/v1\n"
        "principals: [{match: {sub: ada}, roles: [some]}]\n"
        "roles: {some: {tools: {allow: [code_execution]}, code: {languages: {python: {}}}}}\n"
        "deployment: {warm: 0, sandboxes: 2}\n"
    )
    claims = tmp_path / "ada.json"
    claims.write_text('{"sub": "ada"}')
    with anyio.fail_after(40):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            assert (await peer.request("tools/list"))["tools"] == []
        async with serving(deployment.command("serve", "--as", str(claims)), deployment.environ) as peer:
            assert len((await peer.request("tools/list"))["tools"]) == 1
            assert (await peer.execute("print(1)"))["structuredContent"]["stdout"] == "1\n"


def _languages(languages: str) -> str:
    return (
        "schema: sandbox-policy/v1\n"
        f"roles: {{basic: {{code: {{languages: {languages}}}}}}}\n"
        "deployment: {warm: 1, sandboxes: 4}\n"
    )


def _revisions(deployment: Deployment) -> set[str]:
    """Of the policy, as the labels of all containers say."""
    return {
        found["Labels"]["sbx.policy_rev"]
        for instance in deployment.instances()
        for found in deployment.docker.containers(all=True, filters={"label": f"sbx.instance={instance}"})
    }


def _record(deployment: Deployment) -> list[dict[str, Any]]:
    files = sorted((deployment.state / "decisions").glob("*/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_a_client_on_stdio_hears_that_an_edit_of_the_policy_has_changed_its_tools(
    deployment: Deployment, era: str
) -> None:
    heard = anyio.Event()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            heard.set()

    _, *arguments = deployment.command("serve")
    server = StdioServerParameters(command=sys.executable, args=arguments, env=deployment.environ)
    closed = "    tools: {allow: [code_execution]}\n    code:\n"
    with anyio.fail_after(60):
        async with Client(server, mode=era, message_handler=hear) as client:
            before = [tool.name for tool in (await client.list_tools()).tools]
            edit = deployment.policy.read_text().replace("    code:\n", closed)
            if era == "legacy":
                deployment.policy.write_text(edit)
                await heard.wait()
            else:
                async with client.listen(tools_list_changed=True) as changes:
                    deployment.policy.write_text(edit)
                    assert await anext(changes) == ToolsListChanged()
            after = [tool.name for tool in (await client.list_tools()).tools]
    assert before == ["code_execution", "filesystem", "sandbox", "process"]
    assert after == ["code_execution"]


METERED = """
schema: sandbox-policy/v1
roles:
  basic:
    code: {defaults: {cpu: 1s, wall: 5s}, languages: {python: {}}}
    quotas: {cpu_seconds: 3/day}
deployment: {warm: 1, sandboxes: 4}
"""


async def test_cpu_time_of_a_background_process_counts_and_who_has_none_left_can_still_end_it(
    deployment: Deployment,
) -> None:
    deployment.policy.write_text(METERED)
    busy = ["python3", "-c", "import time\nwhile time.process_time() < 3.5: pass"]
    with anyio.fail_after(60):
        async with serving(deployment.command("serve"), deployment.environ) as peer:
            started = await call(peer, "process", operation="start", command=busy)
            (process,) = started["processes"]
            assert (await call(peer, "code_execution", code="print(1)"))["stdout"] == "1\n"
            while process["state"] == "running":
                polled = await call(peer, "process", operation="poll", process=process["process"], wait=10)
                (process,) = polled["processes"]
            refused = await call(peer, "code_execution", code="print(1)")
            assert (refused["code"], refused["rule"]) == ("quota_exceeded", "roles.basic.quotas.cpu_seconds")
            assert (await call(peer, "process", operation="start", command=busy))["code"] == "quota_exceeded"
            ended = await call(peer, "process", operation="list")
            assert ended["processes"][0]["state"] == "exited"
