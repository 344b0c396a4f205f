"""The tool `sandbox`: sessions that a caller makes, names by handle, and keeps between calls."""

from __future__ import annotations

from typing import Any, Literal

import mcp_types as types
from pydantic import Field

from sandbox_server.engines.profile import MIB
from sandbox_server.execution.api import Caller, Executor, OnEvent
from sandbox_server.execution.models import ResetWhat, SessionLimits, SessionRequest, SessionView
from sandbox_server.protocol.progress import with_live_output
from sandbox_server.protocol.registry import invalid
from sandbox_server.protocol.text import visible
from sandbox_server.protocol.tools import Arguments, Call, Tool, ToolResult

Operation = Literal["create", "list", "info", "reset", "extend", "close"]

DESCRIPTION = (
    "Sessions keep files and variables between calls. `create` returns a handle that other tools take as "
    "`session`. It ends when idle or at its ttl; `extend` prolongs it. `reset` ends all processes and keeps "
    "the files, or makes everything new. `close` one that you no longer need."
)

_TAKES: dict[Operation, tuple[str, ...]] = {
    "create": ("language", "ttl", "limits", "packages"),
    "list": (),
    "info": ("session",),
    "reset": ("session", "what"),
    "extend": ("session", "ttl"),
    "close": ("session",),
}
_OPTIONAL = ("language", "limits", "packages", "session", "ttl", "what")

OUTPUT_SCHEMA: dict[str, Any] = {"type": "object", "properties": {"sessions": {"type": "array"}}}


class LimitArguments(Arguments):
    """Absent ones are the policy's own."""

    memory_mib: int | None = None
    pids: int | None = None
    cpus: float | None = None
    workspace_mib: int | None = None


class SandboxArguments(Arguments):
    """What `sandbox` takes. Which of it an operation takes is checked in `_problems`."""

    operation: Operation
    session: str | None = Field(None, description="info, reset, extend, close.")
    language: str | None = Field(None, description="create: of code_execution's; bash is in each image.")
    ttl: float | None = Field(None, description="create, extend: seconds.")
    limits: LimitArguments | None = Field(None, description="create.")
    packages: list[str] | None = Field(None, max_length=1024, description="create.")
    what: ResetWhat | None = Field(None, description="reset; default interpreter.")


def sandbox(executor: Executor) -> Tool:
    """The tool over `executor`."""

    async def handle(arguments: SandboxArguments, call: Call) -> ToolResult:
        problems = _problems(arguments, executor.languages(call.caller))
        if problems:
            raise invalid(problems)
        return _result(await _perform(executor, arguments, call))

    def fit(schema: dict[str, Any], caller: Caller) -> dict[str, Any]:
        if not executor.caps(caller).packages:
            del schema["properties"]["packages"]
        return schema

    return Tool(
        name="sandbox",
        title="Manage sandbox sessions",
        description=DESCRIPTION,
        arguments=SandboxArguments,
        handler=handle,
        fit=fit,
        output_schema=OUTPUT_SCHEMA,
        annotations=types.ToolAnnotations(open_world_hint=False),
    )


def _problems(arguments: SandboxArguments, languages: tuple[str, ...]) -> list[str]:
    operation = arguments.operation
    takes = _TAKES[operation]
    given = [name for name in _OPTIONAL if getattr(arguments, name) is not None]
    problems = [f"{name}: {operation} does not take it" for name in given if name not in takes]
    if "session" in takes and arguments.session is None:
        problems.append(f"session: required by {operation}")
    if arguments.language is not None and arguments.language not in languages:
        problems.append(f"language: unknown language (known: {', '.join(languages)})")
    if arguments.ttl is not None and arguments.ttl <= 0:
        problems.append("ttl: must be more than 0 seconds")
    return problems


async def _perform(executor: Executor, arguments: SandboxArguments, call: Call) -> tuple[SessionView, ...]:
    sessions, handle, caller = executor.sessions, arguments.session or "", call.caller
    match arguments.operation:
        case "create":
            wanted = SessionRequest(
                language=arguments.language or executor.languages(caller)[0],
                ttl=arguments.ttl,
                limits=_limits(arguments.limits or LimitArguments()),
                packages=tuple(arguments.packages or ()),
            )

            async def create(on_event: OnEvent) -> SessionView:
                return await sessions.create(wanted, caller=caller, on_event=on_event)

            return (await with_live_output(call, create),)
        case "list":
            return sessions.list(caller=caller)
        case "info":
            return (sessions.info(handle, caller=caller),)
        case "reset":

            async def reset(on_event: OnEvent) -> SessionView:
                what = arguments.what or "interpreter"
                return await sessions.reset(handle, what, caller=caller, on_event=on_event)

            return (await with_live_output(call, reset),)
        case "extend":
            return (sessions.extend(handle, arguments.ttl, caller=caller),)
        case "close":
            return (sessions.close(handle, caller=caller),)


def _limits(asked: LimitArguments) -> SessionLimits:
    return SessionLimits(
        memory=None if asked.memory_mib is None else asked.memory_mib * MIB,
        cpus=asked.cpus,
        pids=asked.pids,
        workspace=None if asked.workspace_mib is None else asked.workspace_mib * MIB,
    )


def _result(views: tuple[SessionView, ...]) -> types.CallToolResult:
    lines = [_line(view) for view in views] or ["No sessions."]
    return types.CallToolResult(
        content=[types.TextContent(text="\n".join(lines))],
        structured_content={"sessions": [_facts(view) for view in views]},
    )


def _facts(view: SessionView) -> dict[str, Any]:
    info, limits = view.info, view.limits
    return {
        "id": info.id,
        "state": info.state,
        "note": visible(info.note),
        "expires_in_seconds": info.expires_in,
        "age_seconds": round(view.age, 3),
        "running": view.running,
        "of_connection": not view.explicit,
        "languages": list(view.languages),
        "limits": {
            "memory_mib": limits.memory // MIB,
            "pids": limits.pids,
            "cpus": limits.cpus,
            "workspace_mib": limits.workspace // MIB,
        },
    }


def _line(view: SessionView) -> str:
    info = view.info
    ends = "is gone" if info.expires_in is None else f"expires in {info.expires_in:.0f} s"
    parts = [f"session {info.id}: {info.state}", ends, f"runs {', '.join(view.languages)}"]
    if view.running:
        parts.append("a call is going on")
    if info.note:
        parts.append(visible(info.note))
    return "; ".join(parts)
