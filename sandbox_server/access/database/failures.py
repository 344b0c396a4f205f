"""What a database says of a statement, in words that a caller may see.

A database's message can name what the caller must not know of (a relation, a host) or quote what it must
not read (a value that is no number). So the code decides what is said; the database's own words come only
if everything they quote was in the statement already.
"""

from __future__ import annotations

import re

from sandbox_server.errors import (
    Busy,
    ChangeUndecided,
    DatabaseUnavailable,
    InvalidRequest,
    LimitExceeded,
    PolicyDenied,
    SandboxServerError,
)

MAX_MESSAGE = 300
_QUOTED = re.compile(r"""["'`]([^"'`]*)["'`]|: (.+)$""")
_CLAUSES = {"select", "where", "on", "field list", "group statement", "order clause", "having clause"}
_SCHEMA_HINT = "The resource db://{name}/schema lists what there is."

TIMEOUT = {"57014", "1969", "3024"}
LOCKS = {"55P03", "40001", "40P01", "1205", "1213", "SQLITE_BUSY", "SQLITE_LOCKED"}
READ_ONLY = {"25006", "1792", "1290", "SQLITE_READONLY"}
FORBIDDEN = {"42501", "1142", "1143", "1044", "1227", "1370", "SQLITE_AUTH", "SQLITE_PERM"}
CONSTRAINTS = {
    "23505": "a unique constraint",
    "23503": "a foreign key",
    "23502": "a NOT NULL constraint",
    "23514": "a check constraint",
    "1062": "a unique constraint",
    "1451": "a foreign key",
    "1452": "a foreign key",
    "1048": "a NOT NULL constraint",
    "4025": "a check constraint",
    "SQLITE_CONSTRAINT": "a constraint",
}
GONE = {"57P01", "57P02", "57P03", "53300", "1040", "1203", "1226", "2006", "2013", "2003"}
LOGIN = {"28000", "28P01", "3D000", "1045", "1049", "1698"}
SPOKEN = {
    "42601", "42703", "42P01", "42883", "42804", "42803", "42702", "42P10", "42725", "42846", "42P18",
    "42701", "22P02", "22007", "22008", "22012", "22003", "21000", "22023", "42809", "42611", "42P09",
    "1064", "1054", "1146", "1305", "1052", "1055", "1140", "1241", "1242", "1222", "1365", "1366", "1292",
    "SQLITE_ERROR", "SQLITE_MISMATCH", "SQLITE_RANGE",
}  # fmt: skip
"""Codes whose messages repeat the statement, and never a row that the caller did not name."""


def explain(code: str, message: str, *, sql: str, name: str, seconds: float) -> SandboxServerError:
    """The error for a statement that the database `name` refused with `code` (SQLSTATE, number or name)."""
    if code in TIMEOUT:
        return out_of_time(seconds)
    if code in LOCKS:
        return Busy("Another transaction holds what the statement needs; nothing was changed", retry_after=1)
    if code in READ_ONLY:
        return PolicyDenied("This database is read-only here", rule="database.read_only")
    if code in FORBIDDEN:
        return PolicyDenied(
            "The database refuses this to the server's role",
            rule="database.privileges",
            hint=_SCHEMA_HINT.format(name=name),
        )
    if code in GONE or code[:2] == "08":
        return unavailable(name)
    if code in LOGIN:
        return unavailable(name, "does not accept the server's login")
    if code in CONSTRAINTS:
        return InvalidRequest(f"The change breaks {CONSTRAINTS[code]} ({code}); nothing was changed")
    if code[:2] in ("53", "54") or code in ("SQLITE_NOMEM", "SQLITE_FULL", "SQLITE_TOOBIG", "1038"):
        return LimitExceeded(f"The statement needs more than the database gives it ({code})", hint=_LESS)
    said = _spoken(message, sql) if code in SPOKEN else ""
    return InvalidRequest(
        f"The database refused the statement ({code})" + (f": {said}" if said else ""),
        hint=_SCHEMA_HINT.format(name=name),
    )


_LESS = "Ask for less: filter, aggregate, select fewer columns."


def out_of_time(seconds: float) -> LimitExceeded:
    return LimitExceeded(f"The statement was stopped after {seconds:g} s; nothing was changed", hint=_LESS)


def too_many_rows(affected: int | None, most: int, note: str = "") -> LimitExceeded:
    count = f"{affected:,}" if affected is not None else f"more than {most:,}"
    return LimitExceeded(
        f"The statement would change {count} rows, {most:,} is the most; {note or 'it was rolled back'}",
        hint="Narrow the WHERE clause, or change rows in several calls.",
    )


def row_too_large(most: int) -> LimitExceeded:
    return LimitExceeded(
        f"A row is larger than {most:,} bytes",
        hint="Select fewer columns, or the beginning of long ones: LEFT(column, 1000).",
    )


def unavailable(name: str, what: str = "does not answer") -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"The database '{name}' {what}", hint="Its operator has the details in the server's log."
    )


def undecided(name: str) -> ChangeUndecided:
    return ChangeUndecided(
        f"The connection to the database '{name}' was lost while the change was committed",
        hint="Look whether it is there before sending it again.",
    )


def _spoken(message: str, sql: str) -> str:
    message = " ".join(message[:2000].split())
    known = sql.casefold()
    for match in _QUOTED.finditer(message):
        quoted = (match[1] or match[2] or "").casefold()
        if quoted in _CLAUSES or quoted in known or quoted.rpartition(".")[2] in known:
            continue
        if match[2] is not None and all(word in known for word in re.findall(r"\w+", quoted)):
            continue
        return ""
    return message[:MAX_MESSAGE]
