"""What may stand in the log. Total and bounded: a record is made of what callers sent.

Values of keys that hold programs, file contents and SQL are kept as the policy says; what it masks, and
whatever looks like a secret, is not kept at all; the rest is cut to a size.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, Literal

from sandbox_server.audit.chain import MAX_LINE
from sandbox_server.observe.logs import looks_secret, without_secrets

Keep = Literal["hash", "text", "none"]

MASKED: Final = "[masked]"
CODE_KEYS: Final = frozenset(
    {
        *("code", "content", "contents", "content_base64", "data", "data_base64", "body", "files", "input"),
        *("stdin", "edits", "old", "new", "command", "env", "args"),
    }
)
SQL_KEYS: Final = frozenset({"sql", "query", "statement"})
PARAMS: Final = "params"
URL_KEYS: Final = frozenset({"url", "uri"})
_CALL: Final = ("args", "resource")
"""What of a record comes from the caller: only there a key is the name of an argument."""
_MOST: Final = 200
_DEPTH: Final = 8
_LONGEST: Final = 2000
_LONGEST_TEXT: Final = 16 * 1024
_SHORT: Final = 128
_REMEMBERED: Final = 1024
_QUERY: Final = re.compile(r"([?&;])([^=&;#\s]{1,100})=([^&;#\s]*)")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class AuditRules:
    """The policy's `audit:`. `log`: every decision, only what was refused or observed, or nothing. `code` is
    all that goes into programs, `sql` statements and their values, `query` what a URL asks for.
    `mask`: names (of headers, of keys) at any depth, paths such as `params.password`; `*` is any text.
    `on_failure`: whether calls go on when the log can't be written."""

    log: Literal["all", "denied", "none"] = "all"
    code: Keep = "hash"
    sql: Keep = "hash"
    query: Keep = "hash"
    mask: tuple[str, ...] = ()
    on_failure: Literal["stop", "continue"] = "stop"

    def wants(self, record: Mapping[str, object]) -> bool:
        """Whether this decision belongs in the log."""
        if self.log == "denied":
            return record.get("decision") != "allow" or record.get("would_deny") is True
        return self.log == "all"


class Masking:
    """`redact` takes the values of known secrets out of a text."""

    def __init__(self, rules: AuditRules, redact: Callable[[str], str] = str) -> None:
        self._rules = rules
        self._redact = redact
        masks = [each.lower() for each in rules.mask]
        self._names = tuple(each for each in masks if "." not in each)
        self._paths = tuple(each for each in masks if "." in each)
        # Records say the same words again and again: names of limits, the rules that set them.
        self._scrubbed_short = lru_cache(_REMEMBERED)(self._scrubbed)

    def clean(self, record: Mapping[str, object]) -> dict[str, object]:
        """A copy that may be written down. It fits on a line."""
        found = {
            str(key): self._value(value, str(key), (), call=str(key) in _CALL)
            for key, value in record.items()
        }
        for key in (*_CALL, "trace", "limits", "message", "hint", "nearest"):
            size = len(json.dumps(found, allow_nan=False))
            if size <= MAX_LINE // 2:
                break
            found[key] = {"left_out": "too large"}
        return found

    def _value(self, value: object, key: str, path: tuple[str, ...], *, call: bool) -> object:
        if call and path:
            if _named(key, self._names) or _named(".".join(path), self._paths):
                return MASKED
            if looks_secret(key) and not isinstance(value, bool | None):
                return MASKED
            if key in SQL_KEYS:
                return self._kept(value, self._rules.sql)
            if key == PARAMS and value and self._rules.sql != "text":
                return self._kept(value, self._rules.sql)
            if key in CODE_KEYS and value not in (None, "", (), {}, []):
                return self._kept(value, self._rules.code)
            if key in URL_KEYS and isinstance(value, str):
                value = self._url(value)
        match value:
            case str():
                return self._text(value, _LONGEST)
            case None | bool():
                return value
            case int():
                return value if abs(value) < 2**63 else "a number that is too large"
            case float():
                return value if math.isfinite(value) else str(value)
            case Mapping():
                return self._mapping(value, path, call=call)
            case list() | tuple():
                return self._sequence(value, key, path, call=call)
        return self._text(str(value), _LONGEST)

    def _mapping(
        self, value: Mapping[object, object], path: tuple[str, ...], *, call: bool
    ) -> dict[str, object] | str:
        if len(path) >= _DEPTH:
            return "[too deep]"
        found: dict[str, object] = {}
        for number, (key, inner) in enumerate(value.items()):
            if number == _MOST:
                found["..."] = f"{len(value) - _MOST} more"
                break
            name = str(key)
            found[self._text(name, 200)] = self._value(inner, name, (*path, name), call=call)
        return found

    def _sequence(
        self, value: list[object] | tuple[object, ...], key: str, path: tuple[str, ...], *, call: bool
    ) -> list[object] | str:
        if len(path) >= _DEPTH:
            return "[too deep]"
        # An item is masked like what holds it; the path grows so that nesting ends.
        found = [self._value(item, "", (*path, "*"), call=call) for item in value[:_MOST]]
        return found if len(value) <= _MOST else [*found, f"... {len(value) - _MOST} more"]

    def _url(self, url: str) -> str:
        """A URL still, which the same rules judge as they did: none looks at what it asks for."""
        place, mark, asked = url.partition("?")
        if not mark or self._rules.query == "text":
            return url
        raw = asked.encode("utf-8", "surrogatepass")
        digest = f"sha256={hashlib.sha256(raw).hexdigest()}&" if self._rules.query == "hash" else ""
        return f"{place}?{digest}bytes={len(raw)}"

    def _kept(self, value: object, keep: Keep) -> object:
        text = value if isinstance(value, str) else _plain(value)
        raw = text.encode("utf-8", "surrogatepass")
        if keep == "text":
            return self._text(text, _LONGEST_TEXT)
        if keep == "none":
            return {"bytes": len(raw)}
        return {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}

    def _text(self, text: str, most: int) -> str:
        # Secrets go before the cut, which could leave half of one; the first cut bounds the search. Those
        # that are known may change, so nothing is remembered of a text before they are out of it.
        beyond = max(len(text) - 4 * _LONGEST_TEXT, 0)
        text = self._redact(text[: 4 * _LONGEST_TEXT])
        text = self._scrubbed_short(text) if len(text) <= _SHORT else self._scrubbed(text)
        beyond += max(len(text) - most, 0)
        return f"{text[:most]}... ({beyond} characters more)" if beyond else text

    def _scrubbed(self, text: str) -> str:
        text = without_secrets(text)
        if "=" in text:
            text = _QUERY.sub(self._parameter, text)
        return _SURROGATE.sub("\ufffd", text)

    def _parameter(self, found: re.Match[str]) -> str:
        if looks_secret(found[2]) or _named(found[2], self._names):
            return f"{found[1]}{found[2]}={MASKED}"
        return found[0]


def _named(text: str, masks: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text.lower(), mask) for mask in masks)


def _plain(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, default=_as_plain)
    except (ValueError, TypeError, RecursionError):
        return repr(type(value))


def _as_plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)
