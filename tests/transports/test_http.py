"""The HTTP transport on a real port."""

from __future__ import annotations

import json
from dataclasses import replace

import anyio
import httpx2
import pytest
from mcp import Client

from sandbox_server.errors import ConfigError
from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from sandbox_server.transports.http import HttpSettings, is_loopback, serve_http, transport_security
from tests.protocol.fake_executor import OK, FakeExecutor
from tests.transports.http_server import (
    ACCEPT,
    INITIALIZE,
    MODERN_CALL,
    SETTINGS,
    forever,
    legacy_call,
    modern_call,
    open_session,
    served,
)


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
