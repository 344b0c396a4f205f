"""What is visible at a place in a query, and which columns a source has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlglot import exp

from sandbox_server.guards.sql.access import Access
from sandbox_server.guards.sql.names import column_key


@dataclass(slots=True)
class Source:
    """One item of FROM. `relation` for a real one, else it is derived and was judged where it is defined.

    `columns` are all that can be selected from it by name, None if nobody knows. A function's are exact: in
    PostgreSQL `f.pg_read_file` calls pg_read_file with the row of f, if f has no such column.
    """

    name: str
    relation: str | None = None
    columns: frozenset[str] | None = None
    node: exp.Expr | None = None


@dataclass(slots=True)
class Scope:
    outer: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    merged: bool = False
    """Joined by USING or NATURAL: `*` shows some columns once."""
    aliases: frozenset[str] = frozenset()
    """What the SELECT list calls its columns, which ORDER BY and others may name."""

    def chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def named(self, name: str) -> list[Source]:
        """The sources that a qualifier can mean: those of the nearest scope that has any."""
        for scope in self.chain():
            if found := [source for source in scope.sources if source.name == name]:
                return found
        return []

    def may_be_output(self, name: str) -> bool:
        return any(name in scope.aliases for scope in self.chain())

    def all(self) -> Iterator[Source]:
        for scope in self.chain():
            yield from scope.sources


def outputs(query: exp.Expr, scope: Scope | None, access: Access) -> frozenset[str] | None:
    """The names of the columns of a SELECT, given its scope; None if one of them is not known."""
    if scope is None or not isinstance(query, exp.Select):
        return None
    found: set[str] = set()
    for item in query.expressions:
        names = _projected(item, scope, access)
        if names is None:
            return None
        found |= names
    return frozenset(found)


def _projected(item: exp.Expr, scope: Scope, access: Access) -> frozenset[str] | None:
    if isinstance(item, exp.Star):
        parts = [source.columns for source in scope.sources]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
        sources = scope.named(column_key(item.args["table"], access.dialect)) if item.table else []
        return sources[0].columns if len(sources) == 1 else None
    name = item.args.get("alias") if isinstance(item, exp.Alias) else item.this
    if isinstance(item, exp.Alias | exp.Column) and isinstance(name, exp.Identifier):
        return frozenset({column_key(name, access.dialect)})
    # The engine calls it after its function or type; `x.count` for it is a call that is allowed anyway.
    return frozenset()


def renamed(alias: object, known: frozenset[str] | None, dialect_key: object) -> frozenset[str] | None:
    """The columns of a source whose alias may list names for them: `AS v(a, b)`."""
    if not isinstance(alias, exp.TableAlias) or not alias.args.get("columns"):
        return known
    assert callable(dialect_key)
    names: set[str] = set()
    for column in alias.args["columns"]:
        identifier = column.this if isinstance(column, exp.ColumnDef) else column
        if isinstance(identifier, exp.Identifier):
            names.add(dialect_key(identifier))
    # Fewer names than columns leave the others as they were.
    return None if known is None else known | names
