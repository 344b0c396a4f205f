"""Functions whose result is as large as an argument says: that argument must be a small number, written out.

The engine's own limits (time, memory, result size) hold for everything else; this refuses the plain bombs
before they reach it.
"""

from __future__ import annotations

import re

from sqlglot import exp

from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.refusal import Refused

MAX_WIDTH = 10_000
MAX_SERIES = 1_000_000

_WIDTH = re.compile(r"\d{5,}|\*")


def check_bounds(node: exp.Expr, dialect: Dialect) -> None:
    if not isinstance(node, exp.Anonymous):
        return
    arguments = node.expressions
    match str(node.this).lower():
        case "lpad" | "rpad" as name:
            _width(arguments[1] if len(arguments) > 1 else None, name)
        case "format" | "printf" if dialect != "mysql":  # there it writes a number
            _template(arguments[0] if arguments else None)
        case "generate_series" if len(arguments) > 1:
            _series(*arguments[:3])


def _width(argument: object, name: str) -> None:
    value = _integer(argument)
    if value is None or value > MAX_WIDTH:
        raise Refused("sql.function", f"the length of {name} must be a number up to {MAX_WIDTH}")


def _template(argument: object) -> None:
    if not isinstance(argument, exp.Literal) or (argument.is_string and _WIDTH.search(argument.this)):
        raise Refused("sql.function", "format and printf need a literal template without large widths")


def _series(first: exp.Expr, last: exp.Expr, step: exp.Expr | None = None) -> None:
    start, stop = _integer(first), _integer(last)
    size = _integer(step) if step is not None else 1
    if start is not None and stop is not None and size and abs(stop - start) // abs(size) > MAX_SERIES:
        raise Refused("sql.function", f"generate_series is bounded to {MAX_SERIES} rows")


def _integer(node: object) -> int | None:
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Expr):
        value = _integer(node.this)
        return None if value is None else -value
    if isinstance(node, exp.Literal) and not node.is_string and node.this.isdecimal() and len(node.this) < 19:
        return int(node.this)
    return None
