"""Our errors, as a tool result that a model can act on.

`isError` is for these alone. A program that failed is a tool call that worked: its
`outcome` says how it ended, and a client need not treat it as a broken tool.
"""

from __future__ import annotations

import secrets
from typing import Any

import mcp_types as types
import structlog

from sandbox_server.errors import Busy, PolicyDenied, QuotaExceeded, SandboxServerError, UpstreamFailed
from sandbox_server.protocol.text import visible

log = structlog.get_logger(__name__)


def tool_error(error: SandboxServerError) -> types.CallToolResult:
    """`structuredContent` is {code, message, hint, retry_safe} and what the class adds."""
    facts: dict[str, Any] = {
        "code": error.code,
        "message": visible(error.message),
        "hint": visible(error.hint),
        "retry_safe": error.retry_safe,
    }
    if isinstance(error, Busy):
        facts["retry_after"] = error.retry_after
    if isinstance(error, PolicyDenied | QuotaExceeded):
        facts["rule"] = visible(error.rule)
    if isinstance(error, UpstreamFailed | PolicyDenied) and error.reason:
        facts["reason"] = error.reason
    return _error_result(facts)


def unexplained(*, tool: str) -> types.CallToolResult:
    """For an exception nobody expected. Call it while handling: the traceback goes to the log only."""
    incident = secrets.token_hex(6)
    log.exception("tool_failed", tool=tool, incident=incident)
    return _error_result(
        {
            "code": SandboxServerError.code,
            "message": f"The server failed internally (incident {incident}).",
            "hint": "The code may have run. Tell the operator the incident id; its log has the details.",
            "retry_safe": False,
        }
    )


def _error_result(facts: dict[str, Any]) -> types.CallToolResult:
    lines = [f"{facts['code']}: {facts['message']}"]
    if facts["hint"]:
        lines.append(f"hint: {facts['hint']}")
    if "retry_after" in facts:
        lines.append(f"retry after: {facts['retry_after']:g} s")
    text = types.TextContent(text="\n".join(lines))
    return types.CallToolResult(content=[text], structured_content=facts, is_error=True)
