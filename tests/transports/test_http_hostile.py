"""What an HTTP server is sent by those who mean no good."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.protocol.fake_executor import FakeExecutor
from tests.transports.http_server import (
    ACCEPT,
    MODERN_CALL,
    SETTINGS,
    legacy_call,
    modern_call,
    open_session,
    served,
)


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
        ('"code": "1", "\\udfff": 1', "- \ufffd: holds a lone surrogate"),
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
