"""Functions whose result is as large as an argument says: that argument must be a small number, written out.

The engine's own limits (time, memory, result size) hold for everything else; this refuses the plain bombs before
they reach it.
"""

from __future__ import annotations

import re

from sqlglot import exp

from sandbox_server.guards.sql.refusal import Refused

MAX_WIDTH = 10_000
MAX_SERIES = 1_000_000

_WIDTH = re.compile(r"\d{5,}|\*")


def check_bounds(node: exp.Expr) -> None:
    if isinstance(node, exp.Pad):
        _width(node.args.get("expression"), "lpad and rpad")
    elif isinstance(node, exp.Anonymous) and str(node.name).lower() in ("lpad", "rpad"):
        _width(node.expressions[1] if len(node.expressions) > 1 else None, "lpad and rpad")
    elif isinstance(node, exp.Format) or (
        isinstance(node, exp.Anonymous) and str(node.name).lower() in ("format", "printf")
    ):
        _template(node.this if isinstance(node, exp.Format) else next(iter(node.expressions), None))
    elif isinstance(node, exp.GenerateSeries | exp.ExplodingGenerateSeries):
        _series(node)


def _width(argument: object, names: str) -> None:
    value = _integer(argument)
    if value is None or value > MAX_WIDTH:
        raise Refused("sql.function", f"the length of {names} must be a number up to {MAX_WIDTH}")


def _template(argument: object) -> None:
    if not isinstance(argument, exp.Literal) or (argument.is_string and _WIDTH.search(argument.this)):
        raise Refused("sql.function", "format and printf need a literal template without large widths")


def _series(node: exp.Expr) -> None:
    start, stop = _integer(node.args.get("start")), _integer(node.args.get("end"))
    step = node.args.get("step")
    size = _integer(step) if step is not None else 1
    if start is None or stop is None or not size:
        return
    if abs(stop - start) // abs(size) > MAX_SERIES:
        raise Refused("sql.function", f"generate_series is bounded to {MAX_SERIES} rows")


def _integer(node: object) -> int | None:
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Expr):
        value = _integer(node.this)
        return None if value is None else -value
    if isinstance(node, exp.Literal) and not node.is_string and node.this.isdecimal() and len(node.this) < 19:
        return int(node.this)
    return None
