"""A policy as YAML that loads to the same policy: one file, with all that it extends and includes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sandbox_server.policy.models import Policy

_PLAIN: Final = re.compile(r"[a-z][a-z0-9_]*(?:-[a-z0-9_]+)*|[0-9]{1,9}(?:\.[0-9]{1,6})?(?:ms|s|m|h|[KMG]iB)")
_WORDS: Final = frozenset({"yes", "no", "on", "off", "y", "n", "true", "false", "null"})


def dump(policy: Policy) -> str:
    """Only what was written: defaults stay defaults."""
    written = policy.file.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude={"extends", "include"}
    )
    written = {"schema": written.pop("schema"), **written}
    return "\n".join(_block(written, 0)) + "\n"


def _block(value: dict[str, object], depth: int) -> Iterator[str]:
    pad = "  " * depth
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield f"{pad}{_scalar(key)}:"
            yield from _block(inner, depth + 1)
        elif isinstance(inner, list) and any(isinstance(each, dict) for each in inner):
            yield f"{pad}{_scalar(key)}:"
            yield from (f"{pad}  - {_flow(each)}" for each in inner)
        else:
            yield f"{pad}{_scalar(key)}: {_flow(inner)}"


def _flow(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return f"{value:.15f}".rstrip("0") + ("0" if value == int(value) else "")
        case str() if _PLAIN.fullmatch(value) and value not in _WORDS:
            return value
    return '"' + "".join(map(_character, str(value))) + '"'


def _character(character: str) -> str:
    if character in ('"', "\\"):
        return "\\" + character
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
