"""A judged statement in the way that a driver wants its parameters."""

from __future__ import annotations

from typing import Literal

from sandbox_server.guards.sql.lexer import lex
from sandbox_server.guards.sql.models import Dialect

Style = Literal["named", "qmark", "format", "numeric_dollar", "text"]


def placed(sql: str, dialect: Dialect, style: Style) -> tuple[str, tuple[str, ...]]:
    """`Verdict.sql` with its parameters in `style`, and the names whose values it takes, in order.

    A colon or a percent sign that is no parameter stays what it is, escaped where the style needs that:
    `named` is `:a` as it was; `qmark` (SQLite) has a `?` for each use; `format` (MariaDB) has a `%s` for each
    use and doubles every other `%`, so it must be run with parameters, if only `()`; `numeric_dollar`
    (asyncpg) has `$1` for each name; `text` is for SQLAlchemy's `text()`, where every other colon is escaped.
    """
    out: list[str] = []
    uses: list[str] = []
    names: dict[str, int] = {}
    at = 0
    for lexeme in lex(sql, dialect):
        if lexeme.kind != "param":
            continue
        out.append(_plain(sql[at : lexeme.start], style))
        names.setdefault(lexeme.text, len(names) + 1)
        uses.append(lexeme.text)
        out.append(_mark(lexeme.text, names[lexeme.text], style))
        at = lexeme.end
    out.append(_plain(sql[at:], style))
    return "".join(out), tuple(uses if style in ("qmark", "format") else names)


def _mark(name: str, number: int, style: Style) -> str:
    match style:
        case "qmark":
            return "?"
        case "format":
            return "%s"
        case "numeric_dollar":
            return f"${number}"
        case "named" | "text":
            return f":{name}"


def _plain(text: str, style: Style) -> str:
    if style == "format":
        return text.replace("%", "%%")
    return text.replace(":", "\\:") if style == "text" else text
