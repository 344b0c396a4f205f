"""What a client sees before it calls anything."""

from __future__ import annotations

import jsonschema
import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from sandbox_server.errors import EngineUnavailable
from sandbox_server.execution.api import Caller, OnEvent
from sandbox_server.execution.models import RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import FakeExecutor, connect

TOKENS = 2500
SHARED = {"code_execution", "filesystem", "sandbox"}
SHARED_CHARACTERS = 5600
CHARACTERS = 1550
"""What any other tool may take, so that six of them fit."""


async def listed(executor: FakeExecutor, era: str) -> types.ListToolsResult:
    async with connect(build_server(executor, version="1.2.3"), era) as client:
        return await client.list_tools()


async def test_the_whole_list_costs_a_model_less_than_2500_tokens(executor: FakeExecutor, era: str) -> None:
    result = await listed(executor, era)
    text = result.model_dump_json(by_alias=True, exclude_none=True)
    assert len(text) / 4 < TOKENS


async def test_each_tool_keeps_within_its_part_of_that(executor: FakeExecutor) -> None:
    sizes = {
        tool.name: len(tool.model_dump_json(by_alias=True, exclude_none=True))
        for tool in (await listed(executor, "legacy")).tools
    }
    assert sum(sizes[name] for name in SHARED) <= SHARED_CHARACTERS
    assert {name: size for name, size in sizes.items() if name not in SHARED and size > CHARACTERS} == {}


async def test_the_list_is_the_same_every_time(executor: FakeExecutor, era: str) -> None:
    assert (await listed(executor, era)).tools == (await listed(executor, era)).tools


async def test_schemas_are_valid_and_need_no_references(executor: FakeExecutor) -> None:
    for tool in (await listed(executor, "legacy")).tools:
        assert tool.output_schema is not None
        for schema in (tool.input_schema, tool.output_schema):
            jsonschema.Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
            assert "$ref" not in str(schema)


async def test_the_schema_names_the_languages_and_the_limits(executor: FakeExecutor) -> None:
    (tool, *_) = (await listed(executor, "legacy")).tools
    properties = tool.input_schema["properties"]
    assert properties["language"]["enum"] == ["python", "javascript", "bash"]
    assert properties["timeout"]["maximum"] == executor.caps(Caller()).max_wall
    assert tool.input_schema["required"] == ["code"]
    assert tool.input_schema["additionalProperties"] is False


async def test_the_description_says_when_state_is_kept_and_when_not(executor: FakeExecutor) -> None:
    (tool, *_) = (await listed(executor, "legacy")).tools
    assert tool.description is not None
    assert "kept between calls" in tool.description
    assert "Stateless requests run in a fresh sandbox" in tool.description


async def test_tools_are_listed_while_the_engine_is_down(era: str) -> None:
    async def down(request: RunRequest, on_event: OnEvent) -> RunResult:
        raise EngineUnavailable("Docker does not answer", hint="Start it.")

    async with connect(build_server(FakeExecutor(script=down), version="0"), era) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "code_execution",
            "filesystem",
            "sandbox",
            "process",
        ]
        result = await client.call_tool("code_execution", {"code": "print(42)"})
    assert result.is_error
    assert result.structured_content["code"] == "engine_unavailable"
    assert result.structured_content["retry_safe"] is True


async def test_a_cursor_that_was_never_handed_out_is_refused(executor: FakeExecutor, era: str) -> None:
    async with connect(build_server(executor, version="0"), era) as client:
        with pytest.raises(MCPError) as refused:
            await client.list_tools(cursor="page-2")
    assert refused.value.error.code == types.INVALID_PARAMS


async def test_an_unknown_tool_is_a_protocol_error_not_a_tool_result(
    executor: FakeExecutor, era: str
) -> None:
    async with connect(build_server(executor, version="0"), era) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("rm_rf\x1b[31m", {})
    assert refused.value.error.code == types.INVALID_PARAMS
    assert "\x1b" not in refused.value.error.message
    assert executor.requests == []


async def test_the_server_says_who_it_is_and_only_what_it_can_do(executor: FakeExecutor, era: str) -> None:
    async with connect(build_server(executor, version="1.2.3"), era) as client:
        await client.list_tools()
        capabilities = client.server_capabilities
        if era == "legacy":
            assert client.server_info is not None
            assert client.server_info.version == "1.2.3"
            assert client.instructions is not None
            assert "untrusted" in client.instructions
            assert capabilities.tools is not None
            assert capabilities.resources is not None
            assert not capabilities.resources.subscribe
    assert capabilities.prompts is None
    assert capabilities.logging is None
