"""The HTTP transport on a real port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client

from sandbox_server.errors import ConfigError
from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import Output, RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from sandbox_server.transports.http import HttpSettings, is_loopback, serve_http, transport_security
from tests.protocol.fake_executor import OK, FakeExecutor

SETTINGS = HttpSettings(port=0, shutdown_grace=1)
ACCEPT = {"Accept": "application/json, text/event-stream"}
MODERN = {**ACCEPT, "MCP-Protocol-Version": "2026-07-28"}

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "0"},
    },
}


@asynccontextmanager
async def served(executor: FakeExecutor, settings: HttpSettings = SETTINGS) -> AsyncIterator[str]:
    """A running server; yields its base URL and stops it in good order."""
    urls: list[str] = []
    ready = anyio.Event()

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    async def serve() -> None:
        await serve_http(build_server(executor, version="1.2.3"), settings, on_ready=on_ready)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            await ready.wait()
            yield urls[0]
            tasks.cancel_scope.cancel()


def modern_call(arguments: dict[str, Any], *, token: str | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    if token is not None:
        meta["progressToken"] = token
    params = {"name": "code_execution", "arguments": arguments, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


MODERN_CALL = {**MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "code_execution"}


async def open_session(http: httpx2.AsyncClient, url: str) -> dict[str, str]:
    """A legacy session by hand; returns the headers that later requests carry."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "raw", "version": "0"},
    }
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = await http.post(f"{url}/mcp", json=body, headers=ACCEPT)
    assert answer.status_code == 200
    headers = {
        **ACCEPT,
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
        "MCP-Protocol-Version": "2025-11-25",
    }
    await http.post(
        f"{url}/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers
    )
    return headers


def legacy_call(arguments: dict[str, Any]) -> dict[str, Any]:
    params = {"name": "code_execution", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def forever(request: RunRequest, on_event: OnEvent) -> RunResult:
    on_event(Output("stdout", b"started\n"))
    await anyio.sleep_forever()
    return OK


async def test_health_is_served_beside_mcp(executor: FakeExecutor) -> None:
    async with served(executor) as url, httpx2.AsyncClient() as http:
        answer = await http.get(f"{url}/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": "1.2.3"}


async def test_the_official_client_runs_code(executor: FakeExecutor, era: str) -> None:
    async with served(executor) as url, Client(f"{url}/mcp", mode=era) as client:
        result = await client.call_tool("code_execution", {"code": "print(42)"})
    assert result.structured_content["stdout"] == "42\n"


async def test_a_client_that_lets_the_protocol_choose_is_stateless(executor: FakeExecutor) -> None:
    async with served(executor) as url, Client(f"{url}/mcp") as client:
        await client.call_tool("code_execution", {"code": "1"})
        assert client.protocol_version == "2026-07-28"
    assert executor.connections == [None]


async def test_a_legacy_session_is_one_connection_with_an_id_of_its_own(executor: FakeExecutor) -> None:
    async with served(executor) as url, httpx2.AsyncClient() as http:
        headers = await open_session(http, url)
        for _ in range(2):
            answer = await http.post(f"{url}/mcp", json=legacy_call({"code": "1"}), headers=headers)
            assert answer.status_code == 200
        first, second = executor.connections
        assert first == second
        assert first is not None
        assert first != headers["Mcp-Session-Id"]


async def test_two_legacy_clients_share_nothing(executor: FakeExecutor) -> None:
    async with served(executor) as url:
        for _ in range(2):
            async with Client(f"{url}/mcp", mode="legacy") as client:
                await client.call_tool("code_execution", {"code": "1"})
    first, second = executor.connections
    assert first != second


async def test_deleting_a_session_closes_it(executor: FakeExecutor) -> None:
    async with served(executor) as url, httpx2.AsyncClient() as http:
        headers = await open_session(http, url)
        await http.post(f"{url}/mcp", json=legacy_call({"code": "1"}), headers=headers)
        assert executor.closed == []
        assert (await http.delete(f"{url}/mcp", headers=headers)).status_code == 200
        await executor.close_seen.wait()
        assert executor.closed == [executor.connections[0]]
        gone = await http.post(f"{url}/mcp", json=legacy_call({"code": "1"}), headers=headers)
        assert gone.status_code == 404


async def test_a_session_left_idle_is_closed(executor: FakeExecutor) -> None:
    async with served(executor, replace(SETTINGS, session_idle=0.2)) as url, httpx2.AsyncClient() as http:
        headers = await open_session(http, url)
        await http.post(f"{url}/mcp", json=legacy_call({"code": "1"}), headers=headers)
        await executor.close_seen.wait()
        assert executor.closed == [executor.connections[0]]


async def test_a_running_call_keeps_its_session_from_idling_out(executor: FakeExecutor) -> None:
    released = anyio.Event()

    async def slow(request: RunRequest, on_event: OnEvent) -> RunResult:
        await released.wait()
        return OK

    executor.script = slow
    async with served(executor, replace(SETTINGS, session_idle=0.1)) as url, httpx2.AsyncClient() as http:
        headers = await open_session(http, url)
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                answer = await http.post(f"{url}/mcp", json=legacy_call({"code": "1"}), headers=headers)
                assert '"stdout":"42\\n"' in answer.text

            tasks.start_soon(call)
            await executor.started.wait()
            with anyio.move_on_after(0.5):
                await executor.cancelled.wait()
            assert not executor.cancelled.is_set()
            released.set()


async def test_sessions_are_counted(executor: FakeExecutor) -> None:
    async with served(executor, replace(SETTINGS, max_sessions=1)) as url, httpx2.AsyncClient() as http:
        headers = await open_session(http, url)
        refused = await http.post(f"{url}/mcp", json=INITIALIZE, headers=ACCEPT)
        assert refused.status_code == 503
        await http.delete(f"{url}/mcp", headers=headers)
        await open_session(http, url)


async def test_stopping_ends_runs_with_an_answer_and_closes_sessions() -> None:
    executor = FakeExecutor(script=forever)
    stopping = anyio.Event()
    answers: list[types.CallToolResult] = []

    async def call(url: str) -> None:
        async with Client(f"{url}/mcp", mode="legacy") as client:
            answers.append(await client.call_tool("code_execution", {"code": "1"}))
            stopping.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            async with served(executor) as url:
                tasks.start_soon(call, url)
                await executor.started.wait()
            assert executor.cancelled.is_set()
            assert executor.closed == [executor.connections[0]]
            await stopping.wait()
    assert answers[0].is_error
    assert answers[0].structured_content["code"] == "sandbox_lost"
    assert "server is stopping" in answers[0].structured_content["message"]


async def test_stopping_answers_a_stateless_call_too() -> None:
    executor = FakeExecutor(script=forever)
    answers: list[httpx2.Response] = []

    async def call(url: str) -> None:
        async with httpx2.AsyncClient() as http:
            body = modern_call({"code": "1"})
            answers.append(await http.post(f"{url}/mcp", json=body, headers=MODERN_CALL, timeout=30))

    async with anyio.create_task_group() as tasks:
        async with served(executor) as url:
            tasks.start_soon(call, url)
            await executor.started.wait()
        assert executor.cancelled.is_set()
    assert answers[0].json()["result"]["structuredContent"]["code"] == "sandbox_lost"


async def test_stopping_lets_a_short_run_finish() -> None:
    released = anyio.Event()

    async def short(request: RunRequest, on_event: OnEvent) -> RunResult:
        await released.wait()
        return OK

    executor = FakeExecutor(script=short)
    answers: list[httpx2.Response] = []

    async def call(url: str) -> None:
        async with httpx2.AsyncClient() as http:
            body = modern_call({"code": "1"})
            answers.append(await http.post(f"{url}/mcp", json=body, headers=MODERN_CALL, timeout=30))

    async def release_once_refused(url: str) -> None:
        async with httpx2.AsyncClient() as http:
            with suppress(httpx2.TransportError):
                while True:
                    await http.get(f"{url}/healthz", headers={"Connection": "close"})
        released.set()

    patient = replace(SETTINGS, shutdown_grace=10)
    async with anyio.create_task_group() as tasks, served(executor, patient) as url:
        tasks.start_soon(call, url)
        await executor.started.wait()
        tasks.start_soon(release_once_refused, url)
    assert answers[0].json()["result"]["structuredContent"]["outcome"] == "ok"
    assert not executor.cancelled.is_set()


async def test_an_open_notification_stream_does_not_hold_up_a_stop(executor: FakeExecutor) -> None:
    async with httpx2.AsyncClient() as http:
        opened = anyio.Event()

        async def listen(url: str, headers: dict[str, str]) -> None:
            headers = {**headers, "Accept": "text/event-stream"}
            async with http.stream("GET", f"{url}/mcp", headers=headers, timeout=30) as stream:
                opened.set()
                async for _ in stream.aiter_lines():
                    continue

        async with anyio.create_task_group() as tasks:
            async with served(executor, replace(SETTINGS, shutdown_grace=10)) as url:
                tasks.start_soon(listen, url, await open_session(http, url))
                await opened.wait()
                started = anyio.current_time()
            assert anyio.current_time() - started < 3


async def test_closing_a_stateless_stream_cancels_the_run_at_once() -> None:
    executor = FakeExecutor(script=forever)
    async with served(executor) as url, httpx2.AsyncClient() as http:
        body = modern_call({"code": "1"}, token="t")
        async with http.stream("POST", f"{url}/mcp", json=body, headers=MODERN_CALL) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    assert json.loads(line[5:])["params"]["message"] == "started\n"
                    break
        await executor.cancelled.wait()


async def test_closing_a_silent_stateless_request_cancels_the_run_at_once() -> None:
    executor = FakeExecutor(script=forever)
    async with served(executor) as url, httpx2.AsyncClient() as http:
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await http.post(
                    f"{url}/mcp", json=modern_call({"code": "1"}), headers=MODERN_CALL, timeout=30
                )

            tasks.start_soon(call)
            await executor.started.wait()
            tasks.cancel_scope.cancel()
        await executor.cancelled.wait()


async def test_a_legacy_cancellation_stops_the_run_at_once() -> None:
    executor = FakeExecutor(script=forever)
    async with served(executor) as url, Client(f"{url}/mcp", mode="legacy") as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "code_execution", {"code": "1"})
            await executor.started.wait()
            tasks.cancel_scope.cancel()
        await executor.cancelled.wait()
        executor.script = FakeExecutor().script
        assert not (await client.call_tool("code_execution", {"code": "1"})).is_error


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
async def test_a_web_page_elsewhere_cannot_reach_the_server(
    executor: FakeExecutor, headers: dict[str, str], status: int
) -> None:
    async with served(executor) as url, httpx2.AsyncClient() as http:
        for era_headers in (ACCEPT, MODERN_CALL):
            sent = {"Content-Type": "application/json", **era_headers, **headers}
            body = json.dumps(modern_call({"code": "1"}))
            answer = await http.post(f"{url}/mcp", content=body, headers=sent)
            assert answer.status_code == status
    assert executor.requests == []


async def test_ten_megabytes_of_code_are_a_tool_error_and_more_than_the_limit_a_413(
    executor: FakeExecutor,
) -> None:
    async with served(executor) as url, httpx2.AsyncClient() as http:
        body = modern_call({"code": "#" * 10_000_000})
        answer = await http.post(f"{url}/mcp", json=body, headers=MODERN_CALL)
        assert answer.json()["result"]["structuredContent"]["code"] == "limit_exceeded"
        body = modern_call({"code": "#" * SETTINGS.max_body})
        answer = await http.post(f"{url}/mcp", json=body, headers=MODERN_CALL)
        assert answer.status_code == 413
    assert executor.requests == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ('"code": "\\ud800"', "code: holds a lone surrogate"),
        ('"code": "1", "\\udfff": 1', "- \\udfff: holds a lone surrogate"),
        ('"code": "1\\u0000"', "code: holds a NUL"),
        ('"code": "1", "timeout": NaN', "timeout: input should be a finite number"),
        ('"code": "1", "timeout": 1e999', "timeout: input should be a finite number"),
        ('"code": "1", "args": [[[[1]]]]', "args[0]: input should be a valid string"),
    ],
)
async def test_hostile_json_is_a_tool_error(executor: FakeExecutor, argument: str, message: str) -> None:
    body = json.dumps(modern_call({"code": "?"})).replace('"code": "?"', argument)
    async with served(executor) as url, httpx2.AsyncClient() as http:
        answer = await http.post(
            f"{url}/mcp", content=body, headers={**MODERN_CALL, "Content-Type": "application/json"}
        )
    assert answer.status_code == 200
    assert message in answer.json()["result"]["content"][0]["text"]
    assert executor.requests == []


async def test_lone_surrogates_are_a_tool_error_on_the_legacy_wire_too(executor: FakeExecutor) -> None:
    body = json.dumps(legacy_call({"code": "print('\ud800')", "args": ["\U0001f600"]}))
    async with served(executor) as url, httpx2.AsyncClient() as http:
        headers = {**await open_session(http, url), "Content-Type": "application/json"}
        answer = await http.post(f"{url}/mcp", content=body, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["id"] == 1
        assert answer.json()["result"]["isError"] is True
        assert "- code: holds a lone surrogate" in answer.json()["result"]["content"][0]["text"]
        elsewhere = await http.post(f"{url}/mcp", content=body, headers={**headers, "Host": "evil.example"})
        assert elsewhere.status_code == 421
        whole = await http.post(
            f"{url}/mcp", json=legacy_call({"code": "print('\U0001f600')"}), headers=headers
        )
        assert '"isError":false' in whole.text
    (request,) = executor.requests
    assert request.code == "print('\U0001f600')"


async def test_lone_surrogates_elsewhere_in_a_legacy_message_are_a_parse_error(
    executor: FakeExecutor,
) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": "\ud800", "method": "tools/list"})
    async with served(executor) as url, httpx2.AsyncClient() as http:
        headers = {**await open_session(http, url), "Content-Type": "application/json"}
        answer = await http.post(f"{url}/mcp", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == -32700


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b'{"jsonrpc":"2.0"}', b"[" * 100_000])
async def test_what_is_no_message_is_refused_and_the_server_goes_on(
    executor: FakeExecutor, body: bytes
) -> None:
    async with served(executor) as url, httpx2.AsyncClient() as http:
        for headers in (ACCEPT, MODERN_CALL):
            answer = await http.post(
                f"{url}/mcp", content=body, headers={**headers, "Content-Type": "application/json"}
            )
            assert answer.status_code == 400
            assert "error" in answer.json()
        assert (await http.get(f"{url}/healthz")).status_code == 200


async def test_a_port_in_use_is_the_operators_to_mend(executor: FakeExecutor) -> None:
    async with served(executor) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            await serve_http(build_server(executor, version="0"), replace(SETTINGS, port=port))


def test_off_loopback_the_clients_address_must_be_known() -> None:
    with pytest.raises(ConfigError, match="public_url"):
        transport_security(HttpSettings(host="0.0.0.0"))
    with pytest.raises(ConfigError, match="not an http"):
        transport_security(HttpSettings(public_url="sandbox.example"))
    allowed = transport_security(HttpSettings(host="0.0.0.0", public_url="https://sandbox.example"))
    assert "sandbox.example" in allowed.allowed_hosts
    assert "https://sandbox.example" in allowed.allowed_origins
    assert allowed.enable_dns_rebinding_protection


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_addresses_that_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "localhost.example.org", ""])
def test_addresses_that_others_reach(host: str) -> None:
    assert not is_loopback(host)
