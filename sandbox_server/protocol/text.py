"""Text that is safe to put into JSON and in front of a model or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from sandbox_server.text import make_visible

_MOST = 10_000
"""Of one list or object; no model takes as many, so what lies behind is refused unread."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Control, bidi and invisible characters as `\x1b` or `\u202e`; other text as it is."""
    return make_visible(text.replace("\r\n", "\n"))


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
            for key, inner in islice(each.items(), _MOST):
                name = clip(visible(str(key)), 60)
                here = f"{path}.{name}" if path else name
                if _SURROGATE.search(str(key)):
                    yield here
                pending.append((here, inner))
        elif isinstance(each, list):
            pending.extend((f"{path}[{index}]", inner) for index, inner in enumerate(each[:_MOST]))
