"""Values of any driver as JSON, each of bounded size, and rows until a call has had enough."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from sandbox_server.access.database.answers import Cell, Column, Rows, Statement
from sandbox_server.access.database.settings import DatabaseLimits
from sandbox_server.errors import LimitExceeded

EXACT = 2**53 - 1
"""The largest integer that every JSON reader keeps exact; beyond it integers are strings."""

MAX_COLUMNS = 1000


def json_value(value: Any, most: int) -> tuple[Any, bool]:
    """`value` as JSON, and whether it had to be cut to `most` bytes or characters."""
    match value:
        case None | bool():
            return value, False
        case int():
            return (value, False) if abs(value) <= EXACT else _text(_digits(value), most)
        case float():
            return _number(value), False
        case str():
            return _text(value, most)
        case bytes() | bytearray() | memoryview():
            data = bytes(value[:most])
            return {"base64": base64.b64encode(data).decode("ascii")}, len(value) > most
        case Decimal():
            return _text(format(value, "f") if value.is_finite() else str(value), most)
        case datetime() | date() | time():
            return value.isoformat(), False
        case timedelta():
            return _clock(value), False
        case Cell():
            return json_value(value.kept, most)[0], True
        case list() | tuple() | dict():
            return value, False  # was JSON of bounded size before it was parsed
        case _:
            return _text(str(value), most)


def from_json(text: str) -> Any:
    """JSON text as a value; as the text that it is where no reader could keep it (depth, precision)."""
    try:
        return json.loads(text, parse_float=_decimal, parse_int=_integer, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def _text(text: str, most: int) -> tuple[str, bool]:
    # Lone surrogates (SQLite keeps them) could not be encoded on their way to the caller.
    kept = text[:most].encode("utf-8", "backslashreplace").decode()
    return kept, len(text) > most


def _digits(value: int) -> str:
    return str(value) if value.bit_length() < 10_000 else hex(value)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) and Decimal(repr(number)) == Decimal(text) else text


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 16 else text


def _clock(value: timedelta) -> str:
    """MariaDB's TIME, which is a duration of up to 838 hours and may be negative."""
    sign = "-" if value < timedelta() else ""
    value = abs(value)
    seconds = value.days * 86400 + value.seconds
    fraction = f".{value.microseconds:06}" if value.microseconds else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"


class Collector:
    """Takes rows until there are as many, or as many bytes, as the call may have.

    `skip` is how many rows to pass over first, for an engine that could not be asked to.
    """

    def __init__(
        self, columns: Sequence[Column], statement: Statement, limits: DatabaseLimits, *, skip: int = 0
    ) -> None:
        if len(columns) > MAX_COLUMNS:
            raise LimitExceeded(f"The result has more than {MAX_COLUMNS:,} columns", hint="Select fewer.")
        self._columns = tuple(columns)
        self._limit = statement.limit
        self._skip = skip
        self._left = limits.bytes
        self.cell = cell_size(limits, len(self._columns))
        self._rows: list[tuple[Any, ...]] = []
        self.more = False

    def add(self, row: Sequence[Any]) -> bool:
        """Whether the next row is wanted. A row that no longer fits is not kept, and there is `more`."""
        if self._skip:
            self._skip -= 1
            return True
        if len(self._rows) >= self._limit:
            self.more = True
            return False
        size, cells = 2, []
        for raw in row:
            value, cut = json_value(raw, self.cell)
            size += _size(value)
            cells.append(Cell(value, None) if cut else value)
        if size > self._left and self._rows:
            self.more = True
            return False
        self._left -= size
        self._rows.append(tuple(cells))
        return True

    def rows(self, *, affected: int | None = None) -> Rows:
        return Rows(self._columns, tuple(self._rows), self.more, affected)


def cell_size(limits: DatabaseLimits, columns: int) -> int:
    """What is kept of one value: so little that a row of all columns fits into the call's bytes."""
    return max(64, min(limits.cell, limits.bytes // max(1, columns)))


def _size(value: Any) -> int:
    match value:
        case str():
            return len(value) + 3
        case dict() | list():
            return len(json.dumps(value, ensure_ascii=False)) + 1
        case _:
            return 12
