"""Everything that the conformance suite wants a server to have, as an `Extra` for the real one."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError

from sandbox_server.protocol.server import Extra, ExtraHandler
from sandbox_server.protocol.tools import Call, Context, Tool, ToolResult
from tests.e2e.conformance import asking, content
from tests.e2e.conformance.content import NoArguments, embedded, red_pixel, text, tool

FRESH: dict[str, Any] = {"ttl_ms": 1000, "cache_scope": "public"}
STATIC_TEXT = "test://static-text"
STATIC_BINARY = "test://static-binary"
TEMPLATE = "test://template/{id}/data"


async def list_resources(context: Context, params: Any) -> types.ListResourcesResult:
    described = {
        STATIC_TEXT: "text/plain",
        STATIC_BINARY: "image/png",
        "test://watched-resource": "text/plain",
    }
    resources = [
        types.Resource(
            uri=uri, name=uri.removeprefix("test://"), description="A fixture", mime_type=mime_type
        )
        for uri, mime_type in described.items()
    ]
    return types.ListResourcesResult(resources=resources, **FRESH)


async def list_templates(context: Context, params: Any) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(
        uri_template=TEMPLATE, name="template", description="A fixture", mime_type="application/json"
    )
    return types.ListResourceTemplatesResult(resource_templates=[template], **FRESH)


async def read_resource(
    context: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[_contents(params.uri)], **FRESH)


def _contents(uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    if uri == STATIC_TEXT or uri == "test://watched-resource":
        value = "This is the content of the static text resource."
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text=value)
    if uri == STATIC_BINARY:
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=red_pixel())
    before, after = TEMPLATE.split("{id}")
    if uri.startswith(before) and uri.endswith(after):
        identifier = uri.removeprefix(before).removesuffix(after)
        value = {"id": identifier, "templateTest": True, "data": f"Data for ID: {identifier}"}
        return types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(value))
    raise MCPError(code=types.INVALID_PARAMS, message="Resource not found", data={"uri": uri})


async def accept(context: Context, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


PROMPTS = [
    types.Prompt(name="test_simple_prompt", description="A fixture"),
    types.Prompt(
        name="test_prompt_with_arguments",
        description="A fixture",
        arguments=[
            types.PromptArgument(name="arg1", description="First test argument", required=True),
            types.PromptArgument(name="arg2", description="Second test argument", required=True),
        ],
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource",
        description="A fixture",
        arguments=[types.PromptArgument(name="resourceUri", description="URI to embed", required=True)],
    ),
    types.Prompt(name="test_prompt_with_image", description="A fixture"),
    types.Prompt(name="test_input_required_result_prompt", description="A fixture"),
]


async def list_prompts(context: Context, params: Any) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=PROMPTS, **FRESH)


async def get_prompt(
    context: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    arguments = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            return _prompt(types.TextContent(text="This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            said = f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"
            return _prompt(types.TextContent(text=said))
        case "test_prompt_with_embedded_resource":
            return _prompt(
                embedded(arguments.get("resourceUri", ""), "Embedded resource content for testing."),
                types.TextContent(text="Please process the embedded resource above."),
            )
        case "test_prompt_with_image":
            return _prompt(
                types.ImageContent(data=red_pixel(), mime_type="image/png"),
                types.TextContent(text="Please analyze the image above."),
            )
        case "test_input_required_result_prompt":
            if isinstance((params.input_responses or {}).get("user_context"), types.ElicitResult):
                return _prompt(types.TextContent(text="Thank you for the context."))
            question = asking.form("What context should the prompt use?", context={"type": "string"})
            return asking.ask(user_context=question)
        case _:
            raise MCPError(code=types.INVALID_PARAMS, message="Unknown prompt")


def _prompt(*contents: types.ContentBlock) -> types.GetPromptResult:
    return types.GetPromptResult(
        messages=[types.PromptMessage(role="user", content=each) for each in contents]
    )


async def complete(context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [each for each in ("paris", "park", "party") if each.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


def _triggers(bus: InMemorySubscriptionBus) -> tuple[Tool, ...]:
    async def change_tools(_: NoArguments, call: Call) -> ToolResult:
        await bus.publish(ToolsListChanged())
        return text("Said that the tools changed.")

    async def change_prompts(_: NoArguments, call: Call) -> ToolResult:
        await bus.publish(PromptsListChanged())
        return text("Said that the prompts changed.")

    return (
        tool("test_trigger_tool_change", change_tools),
        tool("test_trigger_prompt_change", change_prompts),
    )


def conformance_fixtures() -> Extra:
    """Fresh fixtures for one server."""
    bus = InMemorySubscriptionBus()
    handlers = [
        ("resources/list", types.PaginatedRequestParams, list_resources),
        ("resources/templates/list", types.PaginatedRequestParams, list_templates),
        ("resources/read", types.ReadResourceRequestParams, read_resource),
        ("resources/subscribe", types.SubscribeRequestParams, accept),
        ("resources/unsubscribe", types.UnsubscribeRequestParams, accept),
        ("prompts/list", types.PaginatedRequestParams, list_prompts),
        ("prompts/get", types.GetPromptRequestParams, get_prompt),
        ("completion/complete", types.CompleteRequestParams, complete),
        ("logging/setLevel", types.SetLevelRequestParams, accept),
        ("subscriptions/listen", types.SubscriptionsListenRequestParams, ListenHandler(bus)),
    ]
    boundary = RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="conformance")
    return Extra(
        tools=(*content.TOOLS, *asking.TOOLS, *_triggers(bus)),
        handlers=tuple(ExtraHandler(method, params, handler) for method, params, handler in handlers),
        middleware=(boundary,),
    )
