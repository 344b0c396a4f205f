"""Logs go to stderr, never to stdout: on stdio that is the protocol's wire.

For a terminal they are lines to read, otherwise one JSON object each. Whatever they carry may
hold text from callers and from programs, so control characters are made visible (a log must
not be able to move a terminal's cursor or to fake a second line) and secrets are left out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sandbox_server.text import on_one_line

Level = Literal["debug", "info", "warning", "error", "critical"]

_LONGEST: Final = 2000
_SECRET_KEY: Final = re.compile(
    r"(?i)(^|[_-])(authorization|password|passwd|secret|token|cookie|credential|api[_-]?key|dsn)s?($|[_-])"
)
_SECRET_TEXT: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}|://[^/\s:@]+:[^/\s@]+@")


def setup_logs(level: Level = "info", *, stream: TextIO | None = None) -> None:
    """Set once per process, by the command that is run. Also takes over the standard library's logging."""
    stream = stream or sys.stderr
    readable = stream.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
    ]
    renderer: Processor = (
        # Its default traceback shows local variables: secrets, and text of callers.
        structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        if readable
        else structlog.processors.JSONRenderer()
    )
    last: list[Processor] = [structlog.processors.format_exc_info, clean, renderer]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("urllib3", "docker", "asyncio", "uvicorn.access", "mcp", "httpcore2", "httpx2"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def clean(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The processor behind the promise above: every text of `event` escaped, cut and stripped of secrets."""
    return {key: _safe(key, value) for key, value in event.items()}


def _safe(key: str, value: object, depth: int = 0) -> object:
    if _SECRET_KEY.search(key) and not isinstance(value, bool | int | float | None):
        return "[secret]"
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping() if depth < 4:
            return {visible(str(k)): _safe(str(k), v, depth + 1) for k, v in value.items()}
        case list() | tuple() | set() | frozenset() if depth < 4:
            return [_safe("", item, depth + 1) for item in value]
        case bytes():
            value = value.decode("utf-8", "replace")
    return visible(_SECRET_TEXT.sub("[secret]", str(value)), keep_lines=key == "exception")


def looks_secret(key: str) -> bool:
    """Whether what is called `key` (a header, an argument, a parameter) is likely to be a secret."""
    return _SECRET_KEY.search(key) is not None


def without_secrets(text: str) -> str:
    """`text` without credentials as they stand in headers and addresses."""
    return _SECRET_TEXT.sub("[secret]", text)


def visible(text: str, *, keep_lines: bool = False) -> str:
    """`text` with control characters as escapes and at most 2,000 characters long."""
    if len(text) > _LONGEST and not keep_lines:
        text = f"{text[:_LONGEST]}... ({len(text) - _LONGEST} characters more)"
    return "\n".join(on_one_line(line) for line in text.split("\n")) if keep_lines else on_one_line(text)
