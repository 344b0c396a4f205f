"""The tool `sandbox`: what it takes, what it hands on, and what it says."""

from __future__ import annotations

from typing import Any

import jsonschema
import mcp_types as types
import pytest

from sandbox_server.engines.profile import MIB
from sandbox_server.execution.api import ANONYMOUS
from sandbox_server.execution.models import SessionLimits, SessionRequest
from sandbox_server.protocol.sandbox_tool import OUTPUT_SCHEMA
from sandbox_server.protocol.server import build_server
from tests.protocol.fake_executor import FakeExecutor, connect

HANDLE = "h" * 32


async def call(executor: FakeExecutor, era: str = "legacy", **arguments: Any) -> types.CallToolResult:
    async with connect(build_server(executor, version="0"), era) as client:
        return await client.call_tool("sandbox", arguments)


def structured(result: types.CallToolResult) -> dict[str, Any]:
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def test_create_hands_on_what_was_asked_for(executor: FakeExecutor, era: str) -> None:
    result = await call(
        executor,
        era,
        operation="create",
        language="javascript",
        ttl=60.0,
        limits={"memory_mib": 300, "pids": 9, "cpus": 0.5, "workspace_mib": 2},
    )
    limits = SessionLimits(memory=300 * MIB, cpus=0.5, pids=9, workspace=2 * MIB)
    ((name, caller, request),) = executor.desk.asked
    assert (name, request) == ("create", SessionRequest("javascript", 60.0, limits))
    assert caller.principal == ANONYMOUS
    (session,) = structured(result)["sessions"]
    assert session["id"] == HANDLE
    assert session["expires_in_seconds"] == 900.0
    assert session["languages"] == ["python", "bash"]
    assert session["limits"] == {"memory_mib": 256, "pids": 64, "cpus": 1.0, "workspace_mib": 64}
    assert HANDLE in result.content[0].text


async def test_create_needs_nothing_but_its_name(executor: FakeExecutor) -> None:
    assert not (await call(executor, operation="create")).is_error
    assert executor.desk.asked[0][2] == SessionRequest("python")


@pytest.mark.parametrize(
    ("arguments", "more", "state"),
    [
        ({"operation": "info"}, None, "kept"),
        ({"operation": "reset"}, "interpreter", "reset"),
        ({"operation": "reset", "what": "everything"}, "everything", "reset"),
        ({"operation": "extend", "ttl": 5}, 5.0, "kept"),
        ({"operation": "extend"}, None, "kept"),
        ({"operation": "close"}, None, "lost"),
    ],
)
async def test_each_operation_reaches_its_session(
    executor: FakeExecutor, arguments: dict[str, Any], more: object, state: str
) -> None:
    result = await call(executor, session=HANDLE, **arguments)
    ((name, _, given),) = executor.desk.asked
    assert (name, given) == (arguments["operation"], more)
    assert structured(result)["sessions"][0]["state"] == state


async def test_a_list_is_a_list_and_holds_no_control_characters(executor: FakeExecutor) -> None:
    result = await call(executor, operation="list")
    assert [session["state"] for session in structured(result)["sessions"]] == ["kept", "lost"]
    assert "\x1b" not in result.model_dump_json().encode().decode("unicode_escape")


async def test_results_and_errors_are_what_the_schema_says(executor: FakeExecutor, era: str) -> None:
    for arguments in (
        {"operation": "create"},
        {"operation": "list"},
        {"operation": "close", "session": HANDLE},
        {"operation": "close", "session": "another"},
        {"operation": "close"},
    ):
        jsonschema.validate(structured(await call(executor, era, **arguments)), OUTPUT_SCHEMA)


async def test_a_handle_that_is_none_is_not_found_and_not_repeated(executor: FakeExecutor, era: str) -> None:
    result = await call(executor, era, operation="info", session="guess")
    assert result.is_error
    assert structured(result)["code"] == "not_found"
    assert "guess" not in result.model_dump_json()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "operation: required"),
        ({"operation": "open"}, "operation: "),
        ({"operation": "list", "session": HANDLE}, "session: list does not take it"),
        ({"operation": "create", "session": HANDLE}, "session: create does not take it"),
        ({"operation": "info"}, "session: required by info"),
        ({"operation": "info", "session": HANDLE, "ttl": 5}, "ttl: info does not take it"),
        ({"operation": "close", "session": HANDLE, "what": "everything"}, "what: close does not take it"),
        ({"operation": "reset", "session": HANDLE, "what": "all"}, "what: "),
        ({"operation": "create", "language": "cobol"}, "language: unknown language"),
        ({"operation": "create", "ttl": 0}, "ttl: must be more than 0"),
        ({"operation": "create", "limits": {"disk": 1}}, "limits.disk: unknown argument"),
        ({"operation": "create", "limits": {"pids": "9"}}, "limits.pids: "),
        ({"operation": "create", "ttl": "60"}, "ttl: "),
    ],
)
async def test_wrong_arguments_are_named(
    executor: FakeExecutor, arguments: dict[str, Any], problem: str
) -> None:
    result = await call(executor, **arguments)
    assert result.is_error
    assert structured(result)["code"] == "invalid_request"
    assert problem in structured(result)["message"]
    assert executor.desk.asked == []


async def test_code_execution_takes_a_handle(executor: FakeExecutor, era: str) -> None:
    async with connect(build_server(executor, version="0"), era) as client:
        await client.call_tool("code_execution", {"code": "1", "session": HANDLE})
        await client.call_tool("code_execution", {"code": "1"})
    assert executor.handles == [HANDLE, None]


async def test_a_client_is_told_that_it_may_destroy(executor: FakeExecutor) -> None:
    async with connect(build_server(executor, version="0"), "legacy") as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "sandbox"]
    assert tool.annotations is not None
    # Left out means yes for the one and no for the other.
    assert tool.annotations.destructive_hint is not False
    assert tool.annotations.read_only_hint is not True
