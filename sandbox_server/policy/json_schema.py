"""The JSON schema of a policy file, for editors: completion and a first check while one writes."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from sandbox_server.policy import units
from sandbox_server.policy.schema.file import PolicyFile

_NUMBER: Final = r"[0-9]+(\.[0-9]+)?"
_WRITTEN: Final[dict[Any, JsonSchemaValue]] = {
    units.parse_duration: {
        "type": "string",
        "pattern": rf"^{_NUMBER} ?(ms|s|m|h|d)$",
        "description": "a time with its unit: 500ms, 30s, 2m, 1h",
    },
    units.parse_size: {
        "type": "string",
        "pattern": rf"^{_NUMBER} ?(B|KiB|MiB|GiB)$",
        "description": "a size with its unit: 64KiB, 256MiB, 1GiB",
    },
    units.parse_count: {
        "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,6}k$"}],
        "description": "a number, or thousands (1024) as 16k",
    },
    units.parse_budget: {"type": "string", "description": "a size, or a part of the host's: 60%"},
    units.parse_rate: {
        "type": "string",
        "pattern": "^[0-9]+/[a-z]+$",
        "description": "so many in a time: 60/min, 1800/day",
    },
    units.parse_size_rate: {"type": "string", "description": "so much in a time: 10MiB/day"},
}
"""What is written as text with a unit and read as a number: the schema of the text."""


class _AsWritten(GenerateJsonSchema):
    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        written = _WRITTEN.get(schema["function"]["function"])
        return dict(written) if written else super().function_before_schema(schema)


def json_schema() -> dict[str, Any]:
    """Of the whole file. Looser than the loader, which also knows what names mean."""
    found = PolicyFile.model_json_schema(by_alias=True, schema_generator=_AsWritten)
    _without_bounds(found)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sandbox-policy/v1",
        **{key: value for key, value in found.items() if key != "title"},
    }


def _without_bounds(node: object) -> None:
    """Bounds and defaults of numbers make no sense for the text that stands for them."""
    if isinstance(node, dict):
        if node.get("type") == "string" or "anyOf" in node:
            for key in ("minimum", "maximum", "ge", "le"):
                node.pop(key, None)
        if isinstance(node.get("default"), int | float | dict | list) and not isinstance(
            node["default"], bool
        ):
            del node["default"]
        for value in node.values():
            _without_bounds(value)
    elif isinstance(node, list):
        for value in node:
            _without_bounds(value)
