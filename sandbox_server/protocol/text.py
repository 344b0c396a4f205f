"""Text that is safe to put into JSON and in front of a model or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # reorder what a reader sees
    "\ud800-\udfff]"  # surrogates that no JSON writer of ours can encode
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Control, bidi and surrogate characters as `\x1b` or `\u202e`; other text as it is."""
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def clip(text: str, limit: int) -> str:
    """At most `limit` characters of `text`, with an ellipsis if something was left out."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def surrogate_paths(value: Any) -> Iterator[str]:
    """Where strings (also keys) in a JSON value hold lone surrogates, as `files[0].path`."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        path, each = pending.pop()
        if isinstance(each, str):
            if _SURROGATE.search(each):
                yield path
        elif isinstance(each, dict):
            for key, inner in each.items():
                name = clip(visible(str(key)), 60)
                here = f"{path}.{name}" if path else name
                if _SURROGATE.search(str(key)):
                    yield here
                pending.append((here, inner))
        elif isinstance(each, list):
            pending.extend((f"{path}[{index}]", inner) for index, inner in enumerate(each))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
