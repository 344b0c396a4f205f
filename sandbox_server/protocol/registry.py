"""The tools of a server by name: listed in order, called strictly."""

from __future__ import annotations

import difflib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import mcp_types as types
import structlog
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sandbox_server.errors import InvalidRequest, SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.observe.metrics import Metrics
from sandbox_server.protocol.asking import Question
from sandbox_server.protocol.calls import Calls
from sandbox_server.protocol.failures import tool_error, unexplained
from sandbox_server.protocol.gate import Gate, OpenGate
from sandbox_server.protocol.list_changes import ListChanges
from sandbox_server.protocol.text import clip, surrogate_paths, visible
from sandbox_server.protocol.tools import Arguments, Asked, Call, Context, Told, Tool, ToolResult

MAX_PROBLEMS = 12
MAX_ARGUMENTS = 64
NAME_LIMIT = 60
MOST_LISTS = 64

log = structlog.get_logger(__name__)


class Registry:
    """A fixed set of tools. Names are unique."""

    def __init__(
        self, tools: Iterable[Tool], gate: Gate | None = None, metrics: Metrics | None = None
    ) -> None:
        self._gate = gate or OpenGate()
        self._metrics = metrics or Metrics()
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are called {tool.name!r}")
            self._tools[tool.name] = tool
        # Schemas come from models that never change, and every modern HTTP call asks for one.
        self._schemas = {name: tool.schema() for name, tool in self._tools.items()}
        self._listed: OrderedDict[object, list[types.Tool]] = OrderedDict()
        self.changes = ListChanges(self._seen, self._gate.anew)

    def listing(self, context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """What the caller may use, on one page. No cursor was ever handed out, so each is a bad one."""
        if params is not None and params.cursor is not None:
            raise MCPError(code=types.INVALID_PARAMS, message="Unknown cursor; tools/list has a single page")
        caller = self._gate.caller(context, connected=False)
        self.changes.saw(context, caller)
        return types.ListToolsResult(tools=self._seen(caller))

    async def listen(
        self, context: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Tells of changes of the list until the client goes."""
        return await self.changes.listen(context, params, self._gate.caller(context, connected=False))

    def _seen(self, caller: Caller) -> list[types.Tool]:
        """Made once for all callers with the same rights."""
        names = self._gate.tools(caller)
        key = caller.rights, None if names is None else tuple(names)
        found = self._listed.pop(key, None)
        if found is None:
            tools = [tool for name, tool in self._tools.items() if names is None or name in names]
            found = [tool.listed(caller) for tool in tools]
        self._listed[key] = found
        while len(self._listed) > MOST_LISTS:
            self._listed.popitem(last=False)
        return found

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """The argument schema of a tool, or None if there is no such tool."""
        return self._schemas.get(name)

    async def call(self, context: Context, params: types.CallToolRequestParams, calls: Calls) -> ToolResult:
        """Run a tool. Raises MCPError (-32602) for an unknown one; all else is a tool error."""
        tool = self._tools.get(params.name)
        if tool is None:
            known = [each.name for each in self._seen(self._gate.caller(context, connected=False))]
            raise MCPError(code=types.INVALID_PARAMS, message=_unknown(params.name, known))
        begun, told, outcome = time.monotonic(), Told(), "cancelled"
        try:
            arguments = parse_arguments(tool.arguments, params.arguments or {})
            call = Call(context=context, params=params, caller=self._gate.caller(context), told=told)
            result = await calls.run(partial(self._admitted, tool, arguments, call))
            outcome = told.outcome
            return result
        except MCPError:
            outcome = "protocol_error"
            raise
        except Question as question:
            outcome = "asked"
            return question.result
        except SandboxServerError as error:
            outcome = error.code
            log.info("tool_error", tool=tool.name, code=error.code)
            return tool_error(error)
        except Exception:
            outcome = SandboxServerError.code
            return unexplained(tool=tool.name)
        finally:
            self._metrics.calls.add(tool.name, outcome)
            self._metrics.call_time.add(tool.name, seconds=time.monotonic() - begun)

    async def _admitted(self, tool: Tool, arguments: Arguments, call: Call) -> ToolResult:
        asked = await tool.ask(arguments, call) if tool.ask else Asked(call.params.arguments or {})
        gate = self._gate.admitted(call.context, call.params, call.caller, tool.name, asked, call.told)
        async with gate:
            return await tool.handler(arguments, call)


def _unknown(name: str, known: list[str]) -> str:
    return f"Unknown tool: {clip(visible(name), NAME_LIMIT)}. Known: {clip(', '.join(known), 300)}"


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
