"""The trace that a call belongs to, as its caller says it by W3C Trace Context: for the decision log and the
server's log, so that both are found from the caller's own. It is only kept, and never sent on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import structlog

HEADER: Final = "traceparent"
"""The name of the HTTP header, and of the key in an MCP request's `_meta`."""

_LONGEST: Final = 512
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

_trace: ContextVar[str] = ContextVar("trace_id", default="")


def trace_id_of(parent: object) -> str:
    """The trace id in a `traceparent`; "" for whatever is none. What a later version may add is not read."""
    if not isinstance(parent, str) or len(parent) > _LONGEST:
        return ""
    found = _PARENT.fullmatch(parent)
    if found is None:
        return ""
    version, trace, span, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return ""
    return "" if trace == _NO_TRACE or span == _NO_SPAN else trace


def current_trace() -> str:
    """The id of the trace that is being worked for, or ""."""
    return _trace.get()


@contextmanager
def traced(trace_id: str) -> Iterator[None]:
    """What is done inside is done for that trace; its log lines say so. "" changes nothing."""
    if not trace_id:
        yield
        return
    token = _trace.set(trace_id)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=trace_id):
            yield
    finally:
        _trace.reset(token)
