"""Statements that must be refused, and statements that must pass; the canary run takes its material from
both.

The lists of attacks follow the published bypasses of other SQL guards: statements after statements,
executable comments, CTEs that shadow tables, SQL inside strings, functions that reach files, settings and
other sessions.
"""

from __future__ import annotations

from tests.guards.sql.corpus import everywhere, mysql, postgres, sqlite
from tests.guards.sql.corpus.queries import QUERIES

__all__ = ["ATTACKS", "QUERIES", "attacks"]

ATTACKS = {
    "postgres": everywhere.ATTACKS + postgres.ATTACKS,
    "mysql": everywhere.ATTACKS + mysql.ATTACKS,
    "sqlite": everywhere.ATTACKS + sqlite.ATTACKS,
}

# Fine on one engine: users has a catalogue, so `*` is what may be seen; and names that are plain there.
_FINE = {
    "postgres": {"select * from users"},
    "mysql": {"select * from users u(a, b, c)"},
    "sqlite": {"select current_user"},
}


def attacks(dialect: str) -> list[str]:
    # The corpus keeps one statement a line, so control characters are written as escapes.
    return [text.replace("\\x00", "\x00") for text in ATTACKS[dialect] if text not in _FINE.get(dialect, ())]
