"""Refusals in words that the tools in a sandbox show."""

from __future__ import annotations

import json

import h11

from sandbox_server.access.egress.models import Refused

TLS_ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))
"""A fatal alert: clients say "access denied" instead of "connection reset"."""
_REASONS = {
    400: "Bad Request",
    408: "Timeout",
    431: "Too Large",
    501: "Not Implemented",
    503: "Busy",
    502: "Bad Gateway",
    504: "Timeout",
}


def unquoted(error: h11.ProtocolError) -> str:
    """What is wrong, without the line that h11 quotes behind a colon: it may hold a secret."""
    return str(error).partition(":")[0]


def _line(text: str) -> bytes:
    """For a status line, which is all that many tools show of a refused CONNECT."""
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in text)
    return shown[:200].encode()


def refusal(refused: Refused, host: str, port: int) -> tuple[h11.Response, bytes]:
    """The answer to a request that is not passed on; the connection ends with it."""
    if refused.verdict == "denied" and refused.status == 403:
        reason = f"Denied by the sandbox's egress policy ({refused.rule}): {refused.message}"
    else:
        reason = f"{_REASONS.get(refused.status, 'Refused')} (sandbox egress): {refused.message}"
    body = {
        "error": "egress_denied" if refused.verdict == "denied" else "egress_failed",
        "rule": refused.rule,
        "target": f"{host}:{port}" if host else "",
        "message": refused.message,
        "hint": refused.hint,
    }
    content = json.dumps(body).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(content))),
        ("Connection", "close"),
    ]
    return h11.Response(status_code=refused.status, headers=headers, reason=_line(reason)), content
