"""Named parameters: checked by type, put into the driver's own placeholders, never into SQL text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from uuid import UUID

from sandbox_server.access.database.settings import NamedQuery, Param, Scalar
from sandbox_server.errors import InvalidRequest
from sandbox_server.guards.sql import placed
from sandbox_server.guards.sql.lexer import lex
from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.refusal import Refused

MAX_PARAMS = 100
MAX_TEXT = 64 * 1024
MAX_PLACES = 1000
"""Placeholders in one statement: each can hold MAX_TEXT, and MariaDB gets each of them written out."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Template:
    """A statement whose placeholders are the driver's, and the names of what belongs there, in order.

    For MariaDB, whose driver has no server-side binding, `pieces` are the text around the placeholders.
    """

    sql: str
    names: tuple[str, ...]
    pieces: tuple[str, ...] = ()


def check_params(params: Mapping[str, Any]) -> dict[str, Scalar]:
    """Ad-hoc parameters as the caller sent them. Raises InvalidRequest."""
    if len(params) > MAX_PARAMS:
        raise _wrong("params", f"at most {MAX_PARAMS}")
    for name, value in params.items():
        if not _NAME.fullmatch(name):
            raise _wrong("params", "a name is letters, digits and _, at most 63 of them")
        if not isinstance(value, None | bool | int | float | str):
            raise _wrong(f"params.{name}", "must be text, a number, true, false or null")
        if isinstance(value, str) and (len(value) > MAX_TEXT or "\0" in value):
            raise _wrong(f"params.{name}", f"at most {MAX_TEXT} characters, none of them NUL")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise _wrong(f"params.{name}", "is beyond 64 bits; send it as text")
        if isinstance(value, float) and not math.isfinite(value):
            raise _wrong(f"params.{name}", "must be finite")
    return dict(params)


def named_params(query: NamedQuery, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a named query's parameters, each of its declared type. Raises InvalidRequest."""
    check_params(given)
    unknown = [name for name in given if name not in query.params]
    if unknown:
        raise _wrong(f"params.{unknown[0]}", f"unknown; there are {', '.join(query.params) or 'none'}")
    values = {}
    for name, param in query.params.items():
        if name in given:
            values[name] = typed(name, param, given[name])
        elif param.required:
            raise _wrong(f"params.{name}", f"required ({param.type})")
        else:
            values[name] = None if param.default is None else typed(name, param, param.default)
    return values


def typed(name: str, param: Param, raw: Any) -> Any:
    """`raw` as `param.type` within its bounds. Raises InvalidRequest."""
    where = f"params.{name}"
    if raw is None:
        if param.required:
            raise _wrong(where, "must not be null")
        return None
    value = convert(raw, param.type, where)
    if isinstance(value, str) and len(value) > param.max_length:
        raise _wrong(where, f"at most {param.max_length} characters")
    if param.minimum is not None and _rank(value) < _rank(convert(param.minimum, param.type, where)):
        raise _wrong(where, f"must be at least {param.minimum}")
    if param.maximum is not None and _rank(value) > _rank(convert(param.maximum, param.type, where)):
        raise _wrong(where, f"must be at most {param.maximum}")
    if param.allowed and value not in [convert(each, param.type, where) for each in param.allowed]:
        raise _wrong(where, f"must be one of {', '.join(map(str, param.allowed))}")
    return value


def _rank(value: Any) -> Any:
    """To compare by: what has no zone is in UTC, as the sessions are."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def convert(raw: Any, kind: str, where: str) -> Any:
    """A JSON value as one of the types of `ParamType`. Raises InvalidRequest."""
    try:
        value = _CONVERT[kind](raw)
    except (TypeError, ValueError, InvalidOperation, OverflowError):
        raise _wrong(where, f"must be {_EXPECTED[kind]}") from None
    return value


def _int(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or abs(raw) >= 2**63:
        raise ValueError
    return raw


def _float(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise ValueError
    return float(raw)


def _decimal(raw: Any) -> Decimal:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str | Decimal) or len(str(raw)) > 200:
        raise ValueError
    value = Decimal(str(raw))
    if not value.is_finite() or abs(value.adjusted()) > 400:
        raise ValueError
    return value


def _exactly(kind: type) -> Any:
    def check(raw: Any) -> Any:
        if not isinstance(raw, kind):
            raise ValueError
        return raw

    return check


def _of_text(parse: Any, kind: type) -> Any:
    def read(raw: Any) -> Any:
        if type(raw) is kind:
            return raw
        if not isinstance(raw, str):
            raise ValueError
        return parse(raw)

    return read


_CONVERT: dict[str, Any] = {
    "int": _int,
    "float": _float,
    "decimal": _decimal,
    "text": _exactly(str),
    "bool": _exactly(bool),
    "date": _of_text(date.fromisoformat, date),
    "timestamp": _of_text(datetime.fromisoformat, datetime),
    "uuid": _of_text(UUID, UUID),
}
_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "decimal": "a number, as text where it has to be exact",
    "text": "text",
    "bool": "true or false",
    "date": "a date like 2026-01-31",
    "timestamp": "a time like 2026-01-31T12:00:00+00:00",
    "uuid": "a UUID",
}


def bind(sql: str, dialect: Dialect, params: Mapping[str, Any]) -> tuple[Template, tuple[Any, ...]]:
    """`sql`, as the guard wrote it, with places for `params`, and their values in order.

    Raises InvalidRequest if the two don't fit each other.
    """
    template = _template(sql, dialect)
    missing = [name for name in template.names if name not in params]
    if missing:
        raise _wrong(f"params.{missing[0]}", "the query has this parameter, the call has not")
    unused = [name for name in params if name not in template.names]
    if unused:
        raise _wrong(f"params.{unused[0]}", f"the query has no :{unused[0]}")
    return template, tuple(params[name] for name in template.names)


@lru_cache(maxsize=512)
def _template(sql: str, dialect: Dialect) -> Template:
    """By the guard's own lexer, which knows a parameter from a cast, a slice and a colon in a string."""
    try:
        uses = [lexeme for lexeme in lex(sql, dialect) if lexeme.kind == "param"]
    except Refused:
        return Template(sql, ())  # the guard lets nothing pass that it can't read
    if len(uses) > MAX_PLACES:
        raise _wrong("query", f"at most {MAX_PLACES} parameters")
    if dialect != "mysql":
        return Template(*placed(sql, dialect, "numeric_dollar" if dialect == "postgres" else "qmark"))
    pieces, at = [], 0
    for use in uses:
        pieces.append(sql[at : use.start])
        at = use.end
    return Template(sql, tuple(use.text for use in uses), (*pieces, sql[at:]))


def _wrong(where: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"{where}: {problem}", hint="Nothing was run. Correct the arguments and call again."
    )
