"""The tools of a server by name: listed in order, called strictly."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import mcp_types as types
import structlog
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sandbox_server.errors import InvalidRequest, SandboxServerError
from sandbox_server.protocol.calls import Calls
from sandbox_server.protocol.connections import caller_of
from sandbox_server.protocol.failures import tool_error, unexplained
from sandbox_server.protocol.text import clip, surrogate_paths, visible
from sandbox_server.protocol.tools import Arguments, Call, Context, Tool, ToolResult

MAX_PROBLEMS = 12
MAX_ARGUMENTS = 64
NAME_LIMIT = 60

log = structlog.get_logger(__name__)


class Registry:
    """A fixed set of tools. Names are unique."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are called {tool.name!r}")
            self._tools[tool.name] = tool
        # Schemas come from models that never change, and every modern HTTP call asks for one.
        self._listed = {name: tool.listed() for name, tool in self._tools.items()}

    def listing(self, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """All tools on one page. No cursor was ever handed out, so every cursor is a bad one."""
        if params is not None and params.cursor is not None:
            raise MCPError(code=types.INVALID_PARAMS, message="Unknown cursor; tools/list has a single page")
        return types.ListToolsResult(tools=list(self._listed.values()))

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """The argument schema of a tool, or None if there is no such tool."""
        listed = self._listed.get(name)
        return listed.input_schema if listed is not None else None

    async def call(self, context: Context, params: types.CallToolRequestParams, calls: Calls) -> ToolResult:
        """Run a tool. Raises MCPError (-32602) for an unknown one; all else is a tool error."""
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(code=types.INVALID_PARAMS, message=self._unknown(params.name))
        try:
            arguments = parse_arguments(tool.arguments, params.arguments or {})
            call = Call(context=context, params=params, caller=caller_of(context))
            return await calls.run(partial(tool.handler, arguments, call))
        except MCPError:
            raise
        except SandboxServerError as error:
            log.info("tool_error", tool=tool.name, code=error.code)
            return tool_error(error)
        except Exception:
            return unexplained(tool=tool.name)

    def _unknown(self, name: str) -> str:
        known = ", ".join(self._tools)
        return f"Unknown tool: {clip(visible(name), NAME_LIMIT)}. Known: {clip(known, 300)}"


def parse_arguments(model: type[Arguments], raw: Mapping[str, Any]) -> Arguments:
    """Raises InvalidRequest listing `path: message`. Values are never echoed."""
    # Whatever a caller sends is bounded before anything looks at each piece of it: this is the event loop.
    if len(raw) > MAX_ARGUMENTS:
        raise invalid([f"arguments: {len(raw)} are too many; known are {', '.join(model.model_fields)}"])
    refuse_surrogates(raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
    problems = [_problem(each, tuple(model.model_fields)) for each in details[:MAX_PROBLEMS]]
    raise invalid(problems, more=len(details) - len(problems))


def refuse_surrogates(raw: Any) -> None:
    """Raises InvalidRequest naming where strings hold lone surrogates: nothing could encode them."""
    problems = [
        f"{path}: holds a lone surrogate, which is not valid Unicode" for path in surrogate_paths(raw)
    ]
    if problems:
        raise invalid(problems)


def invalid(problems: list[str], *, more: int = 0) -> InvalidRequest:
    """The error for arguments that are wrong in these ways, each as `path: message`.

    `more` is how many further problems there are that nobody has put into words.
    """
    shown = problems[:MAX_PROBLEMS]
    more += len(problems) - len(shown)
    if more:
        shown.append(f"and {more} more")
    return InvalidRequest(
        "Invalid arguments:\n" + "\n".join(f"- {problem}" for problem in shown),
        hint="Nothing was run. Correct the arguments and call again.",
    )


def _problem(detail: ErrorDetails, fields: tuple[str, ...]) -> str:
    where = _path(detail["loc"])
    match detail["type"]:
        case "missing":
            return f"{where}: required"
        case "extra_forbidden":
            return f"{where}: unknown argument{_suggestion(detail['loc'], fields)}"
        case "value_error":
            # Our own validators: pydantic prefixes their text.
            return f"{where}: {detail['ctx']['error']}"
        case _:
            message = detail["msg"]
            return f"{where}: {message[:1].lower()}{message[1:]}"


def _suggestion(location: tuple[int | str, ...], fields: tuple[str, ...]) -> str:
    name = str(location[-1])
    short = len(location) == 1 and len(name) <= NAME_LIMIT
    near = difflib.get_close_matches(name, fields, n=1) if short else []
    return f", did you mean '{near[0]}'?" if near else ""


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = clip(visible(part[: NAME_LIMIT + 1]), NAME_LIMIT)
            path += f".{name}" if path else name
    return path or "arguments"
