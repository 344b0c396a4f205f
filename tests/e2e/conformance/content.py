"""Fixture tools of the conformance suite that answer without asking anything back."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from sandbox_server.errors import InvalidRequest
from sandbox_server.protocol.tools import Arguments, Call, Tool, ToolResult


class NoArguments(Arguments):
    pass


class PromptArgument(Arguments):
    prompt: str


class MessageArgument(Arguments):
    message: str


def text(value: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=value)])


def tool(
    name: str,
    handler: Callable[[Any, Call], Awaitable[ToolResult]],
    arguments: type[Arguments] = NoArguments,
    **more: Any,
) -> Tool:
    return Tool(name, name, "A fixture of the conformance suite.", arguments, handler, **more)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def red_pixel() -> str:
    """A 1x1 PNG, in base64."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def silence() -> str:
    """A WAV of one sample, in base64."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    data = struct.pack("<4sI", b"data", 1) + b"\x80\0"
    body = b"WAVE" + form + data
    return base64.b64encode(struct.pack("<4sI", b"RIFF", len(body)) + body).decode()


def embedded(uri: str, value: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    contents = types.TextResourceContents(uri=uri, mime_type=mime_type, text=value)
    return types.EmbeddedResource(resource=contents)


async def simple_text(_: NoArguments, call: Call) -> ToolResult:
    return text("This is a simple text response for testing.")


async def image_content(_: NoArguments, call: Call) -> ToolResult:
    return types.CallToolResult(content=[types.ImageContent(data=red_pixel(), mime_type="image/png")])


async def audio_content(_: NoArguments, call: Call) -> ToolResult:
    return types.CallToolResult(content=[types.AudioContent(data=silence(), mime_type="audio/wav")])


async def embedded_resource(_: NoArguments, call: Call) -> ToolResult:
    return types.CallToolResult(
        content=[embedded("test://embedded-resource", "This is an embedded resource content.")]
    )


async def multiple_content_types(_: NoArguments, call: Call) -> ToolResult:
    return types.CallToolResult(
        content=[
            types.TextContent(text="Multiple content types test:"),
            types.ImageContent(data=red_pixel(), mime_type="image/png"),
            embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
        ]
    )


async def error_handling(_: NoArguments, call: Call) -> ToolResult:
    raise InvalidRequest("This tool intentionally returns an error for testing")


async def with_logging(_: NoArguments, call: Call) -> ToolResult:
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.context.session.send_log_message(
            "info", message, logger="fixture", related_request_id=call.context.request_id
        )
    return text("Logged three messages.")


async def with_progress(_: NoArguments, call: Call) -> ToolResult:
    for progress in (0, 50, 100):
        await call.context.session.report_progress(progress, 100)
    return text("Reported progress three times.")


async def missing_capability(_: NoArguments, call: Call) -> ToolResult:
    sampling = types.ClientCapabilities(sampling=types.SamplingCapability())
    if not call.context.session.check_client_capability(sampling):
        raise MCPError(
            code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs sampling",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return text("The client can sample.")


JSON_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

TOOLS = (
    tool("test_simple_text", simple_text),
    tool("test_image_content", image_content),
    tool("test_audio_content", audio_content),
    tool("test_embedded_resource", embedded_resource),
    tool("test_multiple_content_types", multiple_content_types),
    tool("test_error_handling", error_handling),
    tool("test_tool_with_logging", with_logging),
    tool("test_logging_tool", with_logging),
    tool("test_tool_with_progress", with_progress),
    tool("test_missing_capability", missing_capability),
    tool("json_schema_2020_12_tool", simple_text, input_schema=JSON_SCHEMA),
)
