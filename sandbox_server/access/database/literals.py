"""Values as SQL for MariaDB, whose driver can't bind on the server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any


def literal(value: Any) -> str:
    """SQL that means nothing but `value`: digits, or hexadecimal. No character of a text is in it."""
    match value:
        case None:
            return "NULL"
        case bool():
            return "TRUE" if value else "FALSE"
        case int():
            return f"{value:d}"
        case float():
            text = repr(value)  # finite: checked where it came in
            return text if "e" in text else f"{text}e0"  # without an exponent it would be a decimal
        case Decimal():
            return format(value, "f")
        case bytes():
            return f"X'{value.hex()}'"
        case date():
            return literal(value.isoformat().replace("T", " "))
        case _:
            return f"_utf8mb4 X'{str(value).encode().hex()}'"


def written(pieces: Sequence[str], values: Sequence[Any]) -> str:
    """A statement with its values in their places."""
    parts = [pieces[0]]
    for value, piece in zip(values, pieces[1:], strict=True):
        parts += [literal(value), piece]
    return "".join(parts)
