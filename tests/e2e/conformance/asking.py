"""Fixture tools that ask the client something: over a back-channel (legacy) or by a second round (modern)."""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata

from sandbox_server.protocol.tools import Call, ToolResult
from tests.e2e.conformance.content import MessageArgument, NoArguments, PromptArgument, text, tool


def form(message: str, **properties: dict[str, Any]) -> types.ElicitRequest:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


NAME = form("What is your name?", name={"type": "string"})
CONFIRM = form("Please confirm", ok={"type": "boolean"})
ROOTS = types.ListRootsRequest()


def ask(state: str | None = None, **requests: Any) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests or None, request_state=state)


def accepted(call: Call, key: str) -> dict[str, Any] | None:
    """The content of an accepted form, or None if it was not (properly) answered."""
    answer = (call.params.input_responses or {}).get(key)
    if not isinstance(answer, types.ElicitResult) or answer.action != "accept":
        return None
    return dict(answer.content or {})


async def sampling(arguments: PromptArgument, call: Call) -> ToolResult:
    request = sample(arguments.prompt, 100)
    answer = await _over_back_channel(call.context, request, types.CreateMessageResult)
    said = answer.content.text if isinstance(answer.content, types.TextContent) else ""
    return text(f"LLM response: {said}")


async def _elicit(call: Call, message: str, schema: dict[str, Any], label: str) -> ToolResult:
    answer = await call.context.session.elicit_form(message, schema, call.context.request_id)
    return text(f"{label}action={answer.action}, content={json.dumps(answer.content)}")


async def elicitation(arguments: MessageArgument, call: Call) -> ToolResult:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    schema = {"type": "object", "properties": properties, "required": ["username", "email"]}
    return await _elicit(call, arguments.message, schema, "User response: ")


async def elicitation_defaults(_: NoArguments, call: Call) -> ToolResult:
    statuses = ["active", "inactive", "pending"]
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": statuses, "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    schema = {"type": "object", "properties": properties, "required": []}
    return await _elicit(call, "Check the defaults", schema, "Elicitation completed: ")


def _titled(prefix: str, *titles: str) -> list[dict[str, str]]:
    return [{"const": f"{prefix}{number}", "title": title} for number, title in enumerate(titles, start=1)]


async def elicitation_enums(_: NoArguments, call: Call) -> ToolResult:
    options = ["option1", "option2", "option3"]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {
            "type": "string",
            "oneOf": _titled("value", "First Option", "Second Option", "Third Option"),
        },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": _titled("value", "First Choice", "Second Choice", "Third Choice")},
        },
    }
    schema = {"type": "object", "properties": properties, "required": []}
    return await _elicit(call, "Choose", schema, "Elicitation completed: ")


async def by_form(_: NoArguments, call: Call) -> ToolResult:
    answer = accepted(call, "user_name")
    return ask(user_name=NAME) if answer is None else text(f"Hello, {answer.get('name')}!")


async def by_sampling(_: NoArguments, call: Call) -> ToolResult:
    answer = (call.params.input_responses or {}).get("capital_question")
    if not isinstance(answer, types.CreateMessageResult | types.CreateMessageResultWithTools):
        return ask(capital_question=sample("What is the capital of France?", 100))
    return text(f"The model says: {answer.content}")


async def by_roots(_: NoArguments, call: Call) -> ToolResult:
    answer = (call.params.input_responses or {}).get("client_roots")
    if not isinstance(answer, types.ListRootsResult):
        return ask(client_roots=ROOTS)
    return text("Roots: " + ", ".join(str(root.uri) for root in answer.roots))


async def by_state(_: NoArguments, call: Call) -> ToolResult:
    if call.params.request_state == "confirming" and accepted(call, "confirm") is not None:
        return text("state-ok")
    return ask("confirming", confirm=CONFIRM)


async def by_everything(_: NoArguments, call: Call) -> ToolResult:
    keys = {"user_name", "greeting", "client_roots"}
    if call.params.request_state == "all" and keys <= (call.params.input_responses or {}).keys():
        return text("Got all three.")
    return ask("all", user_name=NAME, greeting=sample("Generate a greeting", 50), client_roots=ROOTS)


async def by_rounds(_: NoArguments, call: Call) -> ToolResult:
    match call.params.request_state:
        case "named" if accepted(call, "step1") is not None:
            color = form("Step 2: What is your favorite color?", color={"type": "string"})
            return ask("coloured", step2=color)
        case "coloured" if accepted(call, "step2") is not None:
            return text("All rounds are done.")
        case _:
            return ask("named", step1=form("Step 1: What is your name?", name={"type": "string"}))


async def by_capabilities(_: NoArguments, call: Call) -> ToolResult:
    can = call.context.session.client_capabilities or types.ClientCapabilities()
    requests: dict[str, Any] = {}
    if can.elicitation is not None:
        requests["user_name"] = NAME
    if can.sampling is not None:
        requests["greeting"] = sample("Generate a greeting", 50)
    return ask(None if requests else "nothing to ask", **requests)


async def _over_back_channel(
    context: ServerRequestContext[Any, Any], request: Any, result: type[types.CreateMessageResult]
) -> types.CreateMessageResult:
    metadata = ServerMessageMetadata(related_request_id=context.request_id)
    return await context.session.send_request(request, result, metadata=metadata)


TOOLS = (
    tool("test_sampling", sampling, PromptArgument),
    tool("test_elicitation", elicitation, MessageArgument),
    tool("test_elicitation_sep1034_defaults", elicitation_defaults),
    tool("test_elicitation_sep1330_enums", elicitation_enums),
    tool("test_streaming_elicitation", by_form),
    tool("test_input_required_result_elicitation", by_form),
    tool("test_input_required_result_sampling", by_sampling),
    tool("test_input_required_result_list_roots", by_roots),
    tool("test_input_required_result_request_state", by_state),
    tool("test_input_required_result_tampered_state", by_state),
    tool("test_input_required_result_multiple_inputs", by_everything),
    tool("test_input_required_result_multi_round", by_rounds),
    tool("test_input_required_result_capabilities", by_capabilities),
)
