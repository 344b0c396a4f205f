"""What a tool is here: a strict argument model, schemas, and a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from pydantic import BaseModel, ConfigDict

from sandbox_server.enforcement.gate import Ran
from sandbox_server.execution.api import Caller
from sandbox_server.protocol.connections import ServerState

Context = ServerRequestContext[ServerState, Any]
ToolResult = types.CallToolResult | types.InputRequiredResult


class Arguments(BaseModel):
    """Base of every argument model: nothing is coerced, nothing unknown is accepted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(slots=True)
class Told:
    """What a handler tells of its call, for quotas, metrics and the decision log: how it ended, if not simply
    well, CPU seconds that were used, bytes that came in and went out, rows, and the run if it was one."""

    outcome: str = "ok"
    cpu: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    rows: int = 0
    ran: Ran | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One `tools/call`, beside its arguments."""

    context: Context
    params: types.CallToolRequestParams
    caller: Caller
    told: Told = field(default_factory=Told)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the policy is asked about: arguments in its words. `columns` are those that a database has."""

    args: Mapping[str, Any]
    columns: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Tool:
    """A tool as clients see it, and the code behind it.

    `handler` gets an instance of `arguments`. It may raise the errors of
    `sandbox_server.errors` and `MCPError`; anything else reaches the client as an
    unexplained internal error. `input_schema` replaces the one made from `arguments`. What annotations
    leave out is as the specification has it: not read-only, destructive, not idempotent, an open world.
    `fit` makes the argument schema one caller's: with what it may use and no more. `ask` is what the policy
    is asked about a call; without it the arguments as they came. It may raise what `handler` may.
    """

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    handler: Callable[[Any, Call], Awaitable[ToolResult]]
    annotations: types.ToolAnnotations | None = None
    output_schema: Mapping[str, Any] | None = None
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    fit: Callable[[dict[str, Any], Caller], dict[str, Any]] | None = None
    ask: Callable[[Any, Call], Awaitable[Asked]] | None = None

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, without what only costs a model's context."""
        if self.input_schema:
            return dict(self.input_schema)
        full = self.arguments.model_json_schema()
        schema = _slim(full, full.get("$defs", {}))
        # What says it to clients; the models inside say it to the validation, which is what counts.
        schema["additionalProperties"] = False
        return schema

    def listed(self, caller: Caller) -> types.Tool:
        """The entry of `tools/list` that this caller sees."""
        schema = self.schema()
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.fit(schema, caller) if self.fit else schema,
            output_schema=dict(self.output_schema) if self.output_schema is not None else None,
            annotations=self.annotations,
        )


def _slim(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Without pydantic's titles, which repeat the names, without "or null, by default null",
    and with definitions in place, since some clients don't follow references. Bounds that no caller
    comes near and the docstrings of classes go too.

    A null is still accepted, as being absent. Only keywords go: a property may be called "title".
    """
    if "$ref" in schema:
        return _slim(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    if "properties" in schema:
        schema = {key: value for key, value in schema.items() if key != "description"}
    variants = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    if "anyOf" in schema and len(variants) == 1 and schema.get("default", ...) is None:
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return _slim({**variants[0], **rest}, definitions)
    slim: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("$defs", "maxItems", "maxLength") or (key == "title" and isinstance(value, str)):
            continue
        if (key, value) == ("additionalProperties", False) or (key == "default" and not value):
            continue
        if key == "properties":
            slim[key] = {name: _slim(each, definitions) for name, each in value.items()}
        elif isinstance(value, dict):
            slim[key] = _slim(value, definitions)
        elif isinstance(value, list):
            slim[key] = [_slim(each, definitions) if isinstance(each, dict) else each for each in value]
        else:
            slim[key] = value
    return slim
