"""JSON-RPC messages from and to bytes, with an answer for what is not one.

The SDK's stream transports drop a malformed message silently, so its sender waits forever.
"""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError


class Malformed(Exception):
    """Not a message; `reply` is what its sender is owed."""

    def __init__(self, reply: types.JSONRPCError) -> None:
        super().__init__(reply.error.message)
        self.reply = reply


def parse(data: bytes) -> SessionMessage:
    """One message. Raises Malformed (-32700 for what is not JSON, -32600 for JSON that is no message)."""
    try:
        return SessionMessage(types.jsonrpc_message_adapter.validate_json(data, by_name=False))
    except ValidationError:
        pass
    value = _decode(data)
    if isinstance(value, list):
        raise Malformed(_error(None, types.INVALID_REQUEST, "Batches are not supported; send one message"))
    try:
        # Reached by JSON that holds lone surrogates, which pydantic's parser refuses but which
        # the tools answer with a proper error, if only the request comes through.
        message = types.jsonrpc_message_adapter.validate_python(value, by_name=False)
    except ValidationError:
        raise Malformed(_error(_id_of(value), types.INVALID_REQUEST, "Not a JSON-RPC message")) from None
    if not _echoes(value):
        raise Malformed(_error(None, types.INVALID_REQUEST, "Not valid Unicode"))
    return SessionMessage(message)


def serialize(message: types.JSONRPCMessage) -> bytes:
    """The message as one line of UTF-8 without a newline. Never raises for a response."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except (PydanticSerializationError, UnicodeError):
        if not isinstance(message, types.JSONRPCResponse):
            raise
        # Losing the answer would leave the caller waiting.
        error = _error(message.id, types.INTERNAL_ERROR, "The result could not be encoded")
        return error.model_dump_json(by_alias=True, exclude_unset=True).encode()


def too_long(limit: int) -> types.JSONRPCError:
    """The reply to a message over the size limit, whose id nobody has read."""
    return _error(None, types.INVALID_REQUEST, f"Message longer than {limit} bytes")


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Malformed(_error(None, types.PARSE_ERROR, "Parse error: not valid JSON")) from None


def _echoes(value: Any) -> bool:
    """Whether what a reply repeats (id, progress token) can be encoded again."""
    params = value.get("params") or {}
    meta = params.get("_meta") if isinstance(params, dict) else None
    try:
        json.dumps([value.get("id"), value.get("method"), meta], ensure_ascii=False).encode()
    except UnicodeError:
        return False
    return True


def _id_of(value: Any) -> types.RequestId | None:
    identifier = value.get("id") if isinstance(value, dict) else None
    if isinstance(identifier, bool) or not isinstance(identifier, int | str):
        return None
    return identifier if not isinstance(identifier, str) or identifier.isprintable() else None


def _error(identifier: types.RequestId | None, code: int, message: str) -> types.JSONRPCError:
    return types.JSONRPCError(jsonrpc="2.0", id=identifier, error=types.ErrorData(code=code, message=message))
