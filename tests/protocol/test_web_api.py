"""The tool `web_api`, from the MCP client to a server on loopback and back."""

from __future__ import annotations

import json
from typing import Any

import anyio
import jsonschema
import mcp_types as types
import pytest
from anyio.abc import ByteStream

from sandbox_server.access.http.models import WebClient
from sandbox_server.execution.api import Caller
from sandbox_server.guards.web import WebLimits
from sandbox_server.protocol.server import build_server
from sandbox_server.protocol.web_api import WebAccess
from tests.access.http.lab import HOST, Judge, Seen, allow, answer, client, serve
from tests.protocol.fake_executor import FakeExecutor, connect


async def call(
    web: WebClient | None = None, judge: Judge | None = None, era: str = "legacy", **arguments: Any
) -> types.CallToolResult:
    access = WebAccess(web or client(), lambda caller: judge or allow())
    async with connect(build_server(FakeExecutor(), version="1", web=access), era) as peer:
        return await peer.call_tool("web_api", {"method": "GET", **arguments})


def structured(result: types.CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    return dict(result.structured_content)


def text(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


async def test_an_answer_is_structured_and_brief_text(era: str) -> None:
    async with serve(
        answer('{"a": [1]}', "404 Not Found", Content_Type="application/json", ETag="x")
    ) as server:
        url = f"http://{HOST}:{server.port}/a"
        result = await call(era=era, url=url)
    assert not result.is_error, "what a server answers is a call that worked"
    facts = structured(result)
    timings = facts.pop("timings")
    assert facts == {
        "status": 404,
        "url": url,
        "headers": {"content-type": "application/json", "etag": "x"},
        "json": {"a": [1]},
        "truncated": False,
        "redirects": [],
        "rule": "test",
        "received_bytes": 10,
    }
    assert set(timings) == {"resolve_seconds", "connect_seconds", "first_byte_seconds", "total_seconds"}
    assert text(result) == f'404 {url} application/json\n{{"a":[1]}}'


async def test_a_timeout_that_the_policy_cuts_is_said_to_be_cut(era: str) -> None:
    async with serve(answer()) as server:
        url, judge = f"http://{HOST}:{server.port}/", allow(limits=WebLimits(total=5))
        longer, within, usual = [
            structured(await call(judge=judge, era=era, url=url, **asked))
            for asked in ({"timeout": 60}, {"timeout": 5}, {})
        ]
    assert longer["note"] == "timeout: the policy allowed 5 s, less than was asked for"
    assert "note" not in within
    assert "note" not in usual, "nobody has asked for what the tool takes by default"


async def test_a_request_that_is_later_than_the_policy_allows_names_the_policys_time() -> None:
    async def silent(seen: Seen, stream: ByteStream) -> None:
        await anyio.sleep_forever()

    async with serve(silent) as server:
        url, judge = f"http://{HOST}:{server.port}/", allow(limits=WebLimits(total=0.1))
        late = structured(await call(judge=judge, url=url, timeout=60))
    assert (late["code"], late["reason"]) == ("upstream_failed", "web.timeout")
    assert "the policy allows 0.1 s" in late["hint"]


@pytest.mark.parametrize(
    ("data", "body", "kind"),
    [
        ({"ü": 1}, '{"ü": 1}', "application/json"),
        ("a=b&c", "a=b&c", "text/plain; charset=utf-8"),
        ({}, "{}", "application/json"),
    ],
)
async def test_data_is_sent_as_json_or_as_it_is(data: Any, body: str, kind: str) -> None:
    async with serve(answer()) as server:
        await call(method="POST", url=f"http://{HOST}:{server.port}/", data=data)
        await call(
            method="POST", url=f"http://{HOST}:{server.port}/", data=data, headers={"Content-Type": "text/x"}
        )
    assert server.seen[0].body.decode() == body
    assert [each.header("content-type") for each in server.seen] == [kind, "text/x"]


async def test_a_denial_names_the_rule_and_sends_nothing(era: str) -> None:
    async with serve(answer()) as server:
        result = await call(era=era, url=f"http://evil.test:{server.port}/")
    assert result.is_error
    assert (structured(result)["code"], structured(result)["rule"]) == ("policy_denied", "default")
    assert server.connections == 0


async def test_a_server_that_is_not_there_is_told_from_one_that_misbehaves() -> None:
    async with serve(answer()) as server:
        pass
    gone = structured(await call(url=f"http://{HOST}:{server.port}/"))
    async with serve(answer(status="999 X")) as server:
        odd = structured(await call(url=f"http://{HOST}:{server.port}/"))
    assert (gone["code"], gone["reason"], gone["retry_safe"]) == ("upstream_failed", "web.connect", True)
    assert (odd["code"], odd["reason"], odd["retry_safe"]) == ("upstream_failed", "web.protocol", False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"url": "http://user:hunter2@a.example/"}, "url.userinfo"),
        ({"url": "file:///etc/passwd"}, "url.scheme"),
        ({"url": "http://127.1/"}, "url.host_number"),
        ({"url": "http://a.example/", "data": "x"}, "GET has none"),
        ({"url": "http://a.example/", "method": "CONNECT"}, "method"),
        ({"url": "http://a.example/", "method": "get"}, "method"),
        ({"url": "http://a.example/", "timeout": 0}, "timeout"),
        ({"url": "http://a.example/", "timeout": 601}, "timeout"),
        ({"url": "http://a.example/", "format": "pdf"}, "format"),
        ({"url": "http://a.example/", "data": [1], "method": "POST"}, "data: must be an object or a string"),
        ({"url": "http://a.example/", "data": {"a": [*"x" * 10_001, "\ud800"]}, "method": "POST"}, "data"),
        ({"url": "http://a.example/", "headers": {"A": 1}}, "headers"),
        ({"url": "http://a.example/", "headers": {"A": "x\r\nB: y"}}, "line breaks"),
        ({"url": "http://a.example/", "proxy": "http://x"}, "proxy"),
    ],
)
async def test_wrong_arguments_are_named_and_not_repeated(arguments: dict[str, Any], says: str) -> None:
    result = await call(judge=allow("a.example"), **arguments)
    assert result.is_error
    assert structured(result)["code"] == "invalid_request"
    assert says in text(result)
    assert "hunter2" not in text(result)


async def test_what_a_server_sends_can_not_hide_anything() -> None:
    nasty = json.dumps({"k\u202e": ["a\u202eb\x1b[31m", "\ud800"]})
    async with serve(answer(nasty, Content_Type="application/json")) as server:
        as_json = structured(await call(url=f"http://{HOST}:{server.port}/"))
    async with serve(answer("a\u202eb\x1b[31m")) as server:
        as_text = await call(url=f"http://{HOST}:{server.port}/")
    assert as_json["json"] == {"k\\u202e": ["a\\u202eb\\x1b[31m", "\ufffd"]}
    assert structured(as_text)["text"] == "a\\u202eb\\x1b[31m"
    assert "\x1b" not in text(as_text)


async def test_what_was_cut_and_what_was_not_sent_is_said() -> None:
    async with serve(answer("a" * 100)) as server:
        result = await call(
            judge=allow(limits=WebLimits(shown=10)),
            url=f"http://{HOST}:{server.port}/",
            headers={"Host": "x.test"},
        )
    facts = structured(result)
    assert (facts["truncated"], facts["text"]) == (True, "a" * 10)
    assert facts["note"] == "truncated: only 10 bytes are shown; not sent, they are not the caller's: host"
    assert facts["note"] in text(result)


async def test_a_header_that_came_in_several_lines_is_shown_whole() -> None:
    async def paged(seen: Seen, stream: ByteStream) -> None:
        links = b"Link: <a>; rel=next\r\nX-Page: 1\r\nlink: <b>; rel=last\r\n"
        await stream.send(b"HTTP/1.1 204 No Content\r\n" + links + b"\r\n")

    async with serve(paged) as server:
        facts = structured(await call(url=f"http://{HOST}:{server.port}/"))
    assert facts["headers"] == {"link": "<a>; rel=next, <b>; rel=last", "x-page": "1"}


async def test_bytes_are_base64_and_redirects_are_told() -> None:
    async def script(seen: Any, stream: Any) -> None:
        first = b"HTTP/1.1 302 X\r\nLocation: /b\r\n\r\n"
        await stream.send(
            first if seen.target == "/a" else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\0"
        )

    async with serve(script) as server:
        result = await call(url=f"http://{HOST}:{server.port}/a")
    there = f"http://{HOST}:{server.port}/b"
    assert structured(result)["base64"] == "/wA="
    assert structured(result)["redirects"] == [{"status": 302, "url": there}]
    assert f"redirected (302) to {there}" in text(result)


async def test_a_caller_is_judged_by_its_own_rules() -> None:
    asked: list[Caller] = []

    def judge_for(caller: Caller) -> Judge:
        asked.append(caller)
        return allow()

    async with serve(answer()) as server:
        access = WebAccess(client(), judge_for)
        async with connect(build_server(FakeExecutor(), version="1", web=access), "legacy") as peer:
            await peer.call_tool("web_api", {"method": "GET", "url": f"http://{HOST}:{server.port}/"})
    assert [each.principal for each in asked] == [Caller().principal]


async def test_the_tool_is_listed_where_there_is_a_client_and_costs_little(era: str) -> None:
    access = WebAccess(client(), lambda caller: allow())
    async with connect(build_server(FakeExecutor(), version="1", web=access), era) as peer:
        tools = {tool.name: tool for tool in (await peer.list_tools()).tools}
    async with connect(build_server(FakeExecutor(), version="1"), era) as peer:
        assert "web_api" not in [tool.name for tool in (await peer.list_tools()).tools]
    tool = tools["web_api"]
    assert len(tool.model_dump_json(by_alias=True, exclude_none=True)) <= 1550
    assert tool.output_schema is not None
    for schema in (tool.input_schema, tool.output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
