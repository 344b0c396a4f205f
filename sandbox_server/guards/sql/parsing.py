"""The parser, told to leave functions as they are written.

By default it knows hundreds of functions and writes them in its own way: `median(x)` as PERCENTILE_CONT,
`REGEXP` as REGEXP_LIKE, which MariaDB lacks. What is not translated keeps its meaning, and its name is what
the rules speak of. Only calls with a grammar of their own (CAST, EXTRACT, TRIM, ...) are understood.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect as Grammar
from sqlglot.parser import Parser
from sqlglot.parsers.mysql import MySQLParser
from sqlglot.parsers.postgres import PostgresParser
from sqlglot.parsers.sqlite import SQLiteParser
from sqlglot.tokenizer_core import TokenType

from sandbox_server.guards.sql.models import Dialect


def _only(table: dict[Any, Any], *names: Any) -> dict[Any, Any]:
    return {name: table[name] for name in names}


def _extract(self: Any, this: exp.Expr, path: exp.Expr) -> exp.Expr:
    return exp.JSONExtract(this=this, expression=path)


def _extract_scalar(self: Any, this: exp.Expr, path: exp.Expr) -> exp.Expr:
    return exp.JSONExtractScalar(this=this, expression=path)


_ARROWS = {TokenType.ARROW: _extract, TokenType.DARROW: _extract_scalar}
_NAMED_ARGUMENTS = _only(Parser.LAMBDAS, TokenType.FARROW)
_BY_MYSQL: dict[Any, Any] = {**MySQLParser.COLUMN_OPERATORS, **_ARROWS}
_BY_POSTGRES: dict[Any, Any] = {**PostgresParser.JSON_OPERATORS, **_ARROWS}
_BY_SQLITE: dict[Any, Any] = {**SQLiteParser.CONCAT_OPERATORS, **_ARROWS}
_BARE = ("ANY", "CASE")


class _Postgres(PostgresParser):
    FUNCTIONS: ClassVar[dict[str, Any]] = {}
    FUNCTION_PARSERS = _only(
        PostgresParser.FUNCTION_PARSERS, "CAST", "EXTRACT", "TRIM", "SUBSTRING", "POSITION", "OVERLAY"
    )
    NO_PAREN_FUNCTION_PARSERS = _only(PostgresParser.NO_PAREN_FUNCTION_PARSERS, *_BARE)
    LAMBDAS = _NAMED_ARGUMENTS
    JSON_OPERATORS = _BY_POSTGRES


class _Mysql(MySQLParser):
    FUNCTIONS: ClassVar[dict[str, Any]] = {}
    FUNCTION_PARSERS = _only(
        MySQLParser.FUNCTION_PARSERS,
        "CAST",
        "CONVERT",
        "EXTRACT",
        "TRIM",
        "POSITION",
        "GROUP_CONCAT",
        "MATCH",
    )
    NO_PAREN_FUNCTION_PARSERS = _only(MySQLParser.NO_PAREN_FUNCTION_PARSERS, *_BARE)
    LAMBDAS: ClassVar[dict[Any, Any]] = {}
    ADD_JOIN_ON_TRUE = True  # a bare JOIN is fine there, but not a comma before another JOIN's ON
    COLUMN_OPERATORS = _BY_MYSQL


class _Sqlite(SQLiteParser):
    FUNCTIONS: ClassVar[dict[str, Any]] = {}
    FUNCTION_PARSERS = _only(SQLiteParser.FUNCTION_PARSERS, "CAST")
    # Else a comma becomes CROSS JOIN, which tells SQLite's planner to keep that order.
    JOINS_HAVE_EQUAL_PRECEDENCE = False
    NO_PAREN_FUNCTION_PARSERS = _only(SQLiteParser.NO_PAREN_FUNCTION_PARSERS, *_BARE)
    LAMBDAS: ClassVar[dict[Any, Any]] = {}
    CONCAT_OPERATORS = _BY_SQLITE


_PARSERS: dict[Dialect, type[Parser]] = {"postgres": _Postgres, "mysql": _Mysql, "sqlite": _Sqlite}


def parse(sql: str, dialect: Dialect) -> list[exp.Expr | None]:
    """The statements of a text; raises sqlglot's errors."""
    grammar = Grammar.get_or_raise(dialect)
    return _PARSERS[dialect](dialect=grammar).parse(grammar.tokenize(sql), sql)
