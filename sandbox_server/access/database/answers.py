"""What a statement gave, and what a backend says on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A judged statement, ready for a backend. `params` are in the statement's own style and order."""

    sql: str
    params: tuple[Any, ...] = ()
    writes: bool = False
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of which only the beginning was kept. `size`: bytes of the whole, None where nobody knows."""

    kept: Any
    size: int | None


@dataclass(frozen=True, slots=True)
class Rows:
    """`affected`: None for a statement that only reads. `more`: rows or bytes ran out before the result."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: bool = False
    affected: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller gets. Values are JSON; `cut` are (row, column) of values that are not whole."""

    database: str
    operation: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    next_offset: int | None
    affected: int | None
    elapsed: float
    rule: str
    cut: tuple[tuple[int, int], ...] = ()
