"""From the syntax tree to the text that runs, and what that text must hold.

Strings and names are written by us, by the rules of each engine, so that what was judged is what is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlglot import exp
from sqlglot.errors import ErrorLevel
from sqlglot.generator import Generator
from sqlglot.generators.mysql import MySQLGenerator
from sqlglot.generators.postgres import PostgresGenerator
from sqlglot.generators.sqlite import SQLiteGenerator

from sandbox_server.guards.sql.functions import Functions
from sandbox_server.guards.sql.lexer import Lexeme, lex
from sandbox_server.guards.sql.models import Dialect
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.words import words


def _doubled(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _between(operator: str) -> Callable[[Any, exp.Expr], str]:
    return lambda self, node: f"{self.sql(node, 'this')} {operator} {self.sql(node, 'expression')}"


def _call(name: str) -> Callable[[Any, exp.Expr], str]:
    return lambda self, node: self.func(name, node.this, node.args["expression"])


def _literal(self: Any, node: exp.Expr) -> str:
    return _doubled(node.this) if node.args.get("is_string", True) else str(node.this)


def _mysql_literal(self: Any, node: exp.Expr) -> str:
    return _doubled(node.this.replace("\\", "\\\\")) if node.args.get("is_string", True) else str(node.this)


_OURS: dict[Any, Any] = {
    exp.Placeholder: lambda self, node: f":{node.name}",
    exp.Literal: _literal,
    exp.RawString: _literal,
    exp.JSONExtract: _between("->"),
    exp.JSONExtractScalar: _between("->>"),
    # The defaults change what a query means where an engine has its own idea of it.
    exp.Cast: lambda self, node: f"CAST({self.sql(node, 'this')} AS {self.sql(node, 'to')})",
    exp.Pow: _between("^"),
    exp.Substring: lambda self, node: _substring(self, node),
}


def _substring(self: Any, node: exp.Expr) -> str:
    parts = [node.this, node.args.get("start"), node.args.get("length")]
    return str(self.func("SUBSTRING", *parts))


_BY_POSTGRES: dict[Any, Any] = {**PostgresGenerator.TRANSFORMS, **_OURS}
_BY_SQLITE: dict[Any, Any] = {**SQLiteGenerator.TRANSFORMS, **_OURS}
_BY_MYSQL: dict[Any, Any] = {
    **MySQLGenerator.TRANSFORMS,
    exp.Placeholder: _OURS[exp.Placeholder],
    exp.Literal: _mysql_literal,
    exp.RawString: _mysql_literal,
    exp.RegexpLike: _between("REGEXP"),
    # MariaDB has no arrows.
    exp.JSONExtract: _call("JSON_EXTRACT"),
    exp.JSONExtractScalar: lambda self, node: f"JSON_UNQUOTE({_call('JSON_EXTRACT')(self, node)})",
}


class _Postgres(PostgresGenerator):
    TRANSFORMS = _BY_POSTGRES


class _Sqlite(SQLiteGenerator):
    TRANSFORMS = _BY_SQLITE


class _Mysql(MySQLGenerator):
    TRANSFORMS = _BY_MYSQL


_GENERATORS: dict[Dialect, type[Generator]] = {"postgres": _Postgres, "mysql": _Mysql, "sqlite": _Sqlite}


def write(root: exp.Expr, dialect: Dialect) -> str:
    """The statement without comments; raises for what the dialect can't say."""
    options: dict[str, Any] = {
        "dialect": dialect,
        "comments": False,
        "normalize_functions": False,
        "unsupported_level": ErrorLevel.RAISE,
    }
    return _GENERATORS[dialect](**options).generate(root, copy=True)


# Words that may stand before a parenthesis without being a function's name.
_SYNTAX = words(
    """
    in exists any some all and or xor not as on using values over filter where having select from join
    by when then else case with union intersect except distinct lateral rollup cube sets group limit
    offset returning set between like ilike glob is recursive materialized within of similar to escape
    conflict return default rlike regexp add row at check end into cast collate
    """
)
_TYPES = words(
    """
    decimal numeric varchar char character nchar nvarchar timestamp timestamptz time timetz bit float
    double binary varbinary int integer bigint smallint tinyint datetime interval text blob signed
    unsigned year
    """
)


def check_text(sql: str, root: exp.Expr, dialect: Dialect, functions: Functions) -> tuple[str, ...]:
    """Raises unless every function that the text calls is allowed; the functions it calls.

    Independent of how the parser names them: a name before a parenthesis is a call, unless it is an alias
    with columns or the target of INSERT, of which there must be as many as the tree has.
    """
    lexemes = lex(sql, dialect)
    calls: Counter[str] = Counter()
    for index, lexeme in enumerate(lexemes):
        if lexeme.kind == "op" and lexeme.text == ";":
            raise Refused("sql.multiple", "one statement at a time")
        following = lexemes[index + 1] if index + 1 < len(lexemes) else None
        if following is not None and following.text == "(" and lexeme.kind in ("word", "quoted"):
            calls[_name_before(lexemes, index)] += 1
    calls -= _lists(root, dialect)
    for name in calls:
        functions.check(name)
    _same_parameters(lexemes, root)
    return tuple(sorted(calls))


def _name_before(lexemes: list[Lexeme], index: int) -> str:
    lexeme = lexemes[index]
    name = lexeme.text.lower() if lexeme.kind == "word" else lexeme.text
    if index >= 2 and lexemes[index - 1].text == "." and lexemes[index - 1].kind == "op":
        return f"{lexemes[index - 2].text.lower()}.{name}"
    return "" if lexeme.kind == "word" and (name in _SYNTAX or name in _TYPES) else name


def _lists(root: exp.Expr, dialect: Dialect) -> Counter[str]:
    """Names that have a list of columns behind them, and thus look like a call. `` counts syntax."""
    names: Counter[str] = Counter({"": 1 << 30})
    for alias in root.find_all(exp.TableAlias):
        if alias.args.get("columns") and isinstance(alias.this, exp.Identifier):
            names[_written(alias.this, dialect)] += 1
    for schema in root.find_all(exp.Schema):
        table = schema.this
        if isinstance(table, exp.Table) and isinstance(table.this, exp.Identifier):
            prefix = table.args.get("db")
            before = f"{prefix.sql(dialect=dialect).lower()}." if isinstance(prefix, exp.Identifier) else ""
            names[before + _written(table.this, dialect)] += 1
    return names


def _written(name: exp.Identifier, dialect: Dialect) -> str:
    """As `_name_before` reads it."""
    return name.sql(dialect=dialect) if name.quoted else name.name.lower()


def _same_parameters(lexemes: list[Lexeme], root: exp.Expr) -> None:
    written = Counter(lexeme.text for lexeme in lexemes if lexeme.kind == "param")
    if written != Counter(node.name for node in root.find_all(exp.Placeholder)):
        raise Refused(
            "sql.parameter", "a colon here could be taken for a parameter", hint="write CAST(x AS type)"
        )


def parameters(sql: str, dialect: Dialect) -> tuple[str, ...]:
    """The names of the parameters of a text, in order of first use."""
    return tuple(dict.fromkeys(lexeme.text for lexeme in lex(sql, dialect) if lexeme.kind == "param"))
