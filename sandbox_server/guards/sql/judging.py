"""The way of a statement: bounds, parse, shape, names, text. Then the same for the text that will run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.errors import SqlglotError

from sandbox_server.guards.sql.access import Access
from sandbox_server.guards.sql.bounds import check_bounds
from sandbox_server.guards.sql.functions import Functions
from sandbox_server.guards.sql.lexer import depth, lex
from sandbox_server.guards.sql.models import Dialect, Operation, SqlRules, Verdict
from sandbox_server.guards.sql.names import relation_key
from sandbox_server.guards.sql.parsing import parse
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.resolve import Resolver
from sandbox_server.guards.sql.shapes import check_shape, forbidden
from sandbox_server.guards.sql.text import check_text, parameters, write
from sandbox_server.guards.sql.writes import check_write

Columns = Mapping[str, tuple[str, ...]]

_BEGINNINGS = frozenset({"select", "with", "values", "insert", "update", "delete", "table"})

_KEYWORDS = frozenset({"from", "not", "select", "values", "key", "like", "with", "and", "or"})
"""What the parser does not take for the name of a parameter."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one pass over one text found."""

    sql: str
    relations: tuple[str, ...]
    columns: tuple[str, ...]
    functions: tuple[str, ...]


def judge(sql: str, rules: SqlRules, *, operation: Operation, columns: Columns | None = None) -> Verdict:
    """What becomes of `sql`. Pure, bounded, never raises; only `Verdict.sql` may run.

    `columns` are all relations that exist, keyed `schema.relation`, and their columns, spelled as the
    database spells them. Without it, rules that withhold columns cost `*`, and in PostgreSQL `row.name` may
    call a function of the user's own that takes such a row.
    """
    try:
        return _judge(sql, rules, operation, columns)
    except Refused as refused:
        return Verdict(
            False, refused.reason, refused.message, operation=operation, hint=refused.hint, rule=refused.rule
        )
    except RecursionError:
        return Verdict(False, "sql.depth", "the statement nests too deeply", operation=operation)
    except SqlglotError as error:
        return Verdict(
            False,
            "sql.parse",
            _parse_message(error),
            operation=operation,
            detail=f"{type(error).__name__}: {error}",
        )
    except Exception as error:  # an error while deciding is a refusal
        return Verdict(
            False,
            "sql.parse",
            "the statement could not be judged",
            operation=operation,
            detail=f"{type(error).__name__}: {error}",
        )


def _judge(sql: str, rules: SqlRules, operation: Operation, columns: Columns | None) -> Verdict:
    _bounds(sql, rules)
    access, functions = Access(rules, columns), Functions(rules)
    first = _read(sql, rules, operation, access, functions)
    # What runs is judged itself, too, and must be what it says it is.
    again = _read(first.sql, rules, operation, access, functions)
    if again != first:
        second = _read(again.sql, rules, operation, access, functions)
        if (
            again.sql != second.sql
            or again.relations != first.relations
            or again.functions != first.functions
        ):
            raise Refused("sql.unstable", "the statement can't be written so that it is read in one way only")
        first = again
    return Verdict(
        True,
        "sql.ok",
        "allowed",
        sql=first.sql,
        operation=operation,
        relations=first.relations,
        columns=first.columns,
        functions=first.functions,
        parameters=parameters(first.sql, rules.dialect),
    )


def _bounds(sql: str, rules: SqlRules) -> None:
    if not isinstance(sql, str):
        raise Refused("sql.parse", "a statement is text")
    if len(sql) > rules.max_length or len(sql.encode("utf-8", "surrogatepass")) > rules.max_length:
        raise Refused("sql.too_long", f"the statement is longer than {rules.max_length} bytes")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in sql) or "\x00" in sql:
        raise Refused("sql.character", "the statement holds a NUL or half a character")


def _read(sql: str, rules: SqlRules, operation: Operation, access: Access, functions: Functions) -> _Reading:
    root = _parse(sql, rules, operation)
    nodes = list(root.walk())
    check_shape(nodes, rules.dialect, functions.own, writes=operation != "select")
    for node in nodes:
        check_bounds(node, rules.dialect)
    resolver = Resolver(root, access, functions)
    if operation == "select":
        resolver.query(root, {}, None)
    else:
        check_write(root, rules, resolver)
    resolver.finish(root)
    for table, relation in resolver.real:
        _qualify(table, relation, rules.dialect)
    text = write(root, rules.dialect)
    called = check_text(text, root, rules.dialect, functions)
    return _Reading(text, tuple(resolver.relations), tuple(sorted(resolver.columns.read)), called)


def _parse(sql: str, rules: SqlRules, operation: Operation) -> exp.Expr:
    lexemes = lex(sql, rules.dialect)
    while lexemes and lexemes[-1].text == ";" and lexemes[-1].kind == "op":
        lexemes.pop()
    if not lexemes:
        raise Refused("sql.parse", "there is no statement")
    if any(lexeme.text == ";" and lexeme.kind == "op" for lexeme in lexemes):
        raise Refused("sql.multiple", "one statement at a time")
    if (deep := depth(lexemes)) > rules.max_depth:
        raise Refused("sql.depth", f"the statement nests {deep} deep; {rules.max_depth} is allowed")
    if keyword := next(
        (each.text for each in lexemes if each.kind == "param" and each.text.lower() in _KEYWORDS), ""
    ):
        raise Refused(
            "sql.parameter", f":{keyword} can't be the name of a parameter", hint=f"write :{keyword}_"
        )
    begin = next((lexeme for lexeme in lexemes if lexeme.text != "("), lexemes[0])
    if begin.kind != "word" or begin.text.lower() not in _BEGINNINGS:
        raise forbidden(_beginning(begin.text))
    statements = parse(sql[: lexemes[-1].end], rules.dialect)
    if len(statements) != 1 or statements[0] is None:
        raise Refused("sql.multiple", "one statement at a time")
    root = statements[0]
    found = _operation_of(root)
    if found is None:
        raise forbidden(type(root).__name__)
    if found != operation:
        raise Refused(
            "sql.operation", f"the statement is {_article(found)}, but the operation is {operation}"
        )
    if found != "select" and rules.mode != "write":
        raise Refused("sql.mode", f"{found} is not allowed: the database is read-only", rule="mode")
    return root


def _beginning(word: str) -> str:
    shown = word[:20].upper() if word.isascii() and word.isidentifier() else "this beginning"
    return shown


def _operation_of(root: exp.Expr) -> Operation | None:
    match root:
        case exp.Select() | exp.SetOperation() | exp.Values():
            return "select"
        case exp.Subquery():
            return _operation_of(root.this) if isinstance(root.this, exp.Query) else None
        case exp.Insert():
            return "insert"
        case exp.Update():
            return "update"
        case exp.Delete():
            return "delete"
    return None


def _article(operation: str) -> str:
    return f"an {operation}" if operation[0] in "iu" else f"a {operation}"


def _qualify(table: exp.Table, relation: str, dialect: Dialect) -> None:
    """A bare name is looked up along a path that others may change, so the text says the schema."""
    if table.args.get("db") is None:
        schema = relation.partition(".")[0]
        plain = exp.to_identifier(schema)
        safe = relation_key(plain, dialect) == schema and schema.isidentifier() and schema.isascii()
        table.set("db", exp.to_identifier(schema, quoted=not safe))


def _parse_message(error: SqlglotError) -> str:
    """Where and what, without the colours and the excerpt of the parser's own message."""
    details = getattr(error, "errors", None)
    if details:
        first = details[0]
        place = f"line {first.get('line')}, column {first.get('col')}"
        return f"not readable as SQL at {place}: {first.get('description')}"
    return "not readable as SQL"
