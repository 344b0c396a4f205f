"""What we rely on in the SDK beyond its documented face; a new release breaks here first."""

from __future__ import annotations

import inspect
from typing import Any

import mcp_types as types
from mcp import Client
from mcp.server import Server
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.runner import aclose_shielded
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.message import SessionMessage


async def test_a_handler_reaches_its_connection_and_its_exit_stack() -> None:
    ended: list[str] = []
    states: list[int] = []

    async def list_tools(context: ServerRequestContext[Any, Any], params: Any) -> types.ListToolsResult:
        connection = context.session._connection
        assert isinstance(connection, Connection)
        states.append(id(connection.state))
        if len(states) == 1:
            connection.exit_stack.callback(ended.append, "ended")
        return types.ListToolsResult(tools=[])

    async with Client(Server("x", on_list_tools=list_tools), mode="legacy") as client:
        await client.list_tools()
        await client.list_tools()
        assert ended == []
    assert ended == ["ended"]
    assert states[0] == states[1]


def test_messages_parse_and_serialize_through_the_adapter() -> None:
    line = '{"jsonrpc":"2.0","id":1,"method":"ping"}'
    message = SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False)).message
    assert isinstance(message, types.JSONRPCRequest)
    assert message.model_dump_json(by_alias=True, exclude_unset=True) == line


def test_the_progress_token_is_under_the_name_we_read() -> None:
    params = types.CallToolRequestParams.model_validate({"name": "t", "_meta": {"progressToken": 7}})
    assert params.meta is not None
    assert params.meta.get("progress_token") == 7


def test_the_server_takes_a_lifespan_and_a_schema_lookup() -> None:
    parameters = inspect.signature(Server.__init__).parameters
    assert {"lifespan", "get_tool_input_schema", "cache_hints", "on_call_tool"} <= parameters.keys()
    assert inspect.iscoroutinefunction(aclose_shielded)


def test_the_body_limit_wraps_an_application_that_we_can_wrap_again() -> None:
    server: Server[Any] = Server("x")
    server.streamable_http_app()
    limited = server.session_manager.asgi_app
    assert isinstance(limited, RequestBodyLimitMiddleware)
    assert callable(limited.app)
