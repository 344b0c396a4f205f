"""Which columns a statement reads, by every way that a query has to name one."""

from __future__ import annotations

from sqlglot import exp

from sandbox_server.guards.sql.access import ROWIDS, Access
from sandbox_server.guards.sql.functions import Functions
from sandbox_server.guards.sql.names import check_bare_column, column_key
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.scopes import Scope, Source


class Columns:
    """Judges references to columns and notes what was read; `*` becomes what may be seen."""

    def __init__(self, access: Access, functions: Functions) -> None:
        self.access = access
        self.functions = functions
        self.dialect = access.dialect
        self.read: dict[str, None] = {}
        self.seen: set[int] = set()
        self._stars: list[tuple[exp.Expr, list[exp.Expr]]] = []

    def judge(self, node: exp.Column, scope: Scope) -> None:
        self.seen.add(id(node))
        check_bare_column(node)
        if isinstance(node.this, exp.Star):
            for source in self._qualifier(node, scope):
                if source.relation and self.access.restricted(source.relation):
                    raise self._whole_row(source)
            return
        name = column_key(node.this, self.dialect)
        if node.args.get("table") is None:
            self.unqualified(name, scope)
            return
        for source in self._qualifier(node, scope):
            self._qualified(name, source)

    def _qualifier(self, node: exp.Column, scope: Scope) -> list[Source]:
        sources = scope.named(column_key(node.args["table"], self.dialect))
        if (schema := node.args.get("db")) is not None:
            wanted = column_key(schema, self.dialect)
            sources = [
                one for one in sources if (one.relation or "").partition(".")[0].lower() == wanted.lower()
            ]
        if not sources:
            raise Refused("sql.column", f"{node.table} is no table or alias of this query")
        return sources

    def _qualified(self, name: str, source: Source) -> None:
        relation = source.relation
        if relation is not None:
            exists = self.access.has(relation, name)
            if exists is False or (exists is None and self._may_be_call(name, relation)):
                raise self.access.no_column(relation, name)
            self._read(relation, name)
        elif not self._derived_has(source, name):
            raise Refused("sql.column", f"{source.name} has no column {name}")

    def _derived_has(self, source: Source, name: str) -> bool:
        """Elsewhere than in PostgreSQL the engine finds out; there it might find a function."""
        known = source.columns
        if self.dialect == "sqlite" and name in ROWIDS:
            return known is not None and name in known  # else it may be the key of a table below
        return self.dialect != "postgres" or known is None or name in known or self.functions.allows(name)

    def _may_be_call(self, name: str, relation: str) -> bool:
        """PostgreSQL takes `t.row_to_json` for `row_to_json(t)` if t has no such column."""
        if self.dialect != "postgres":
            return False
        return not self.functions.safe_as_column(name, restricted=self.access.restricted(relation))

    def unqualified(self, name: str, scope: Scope) -> None:
        """Denied where it is denied in any relation that it could belong to.

        Also if none has it and nothing else could be meant: the database's own words for a column that is not
        there would tell it from one that is withheld.
        """
        absent: list[str] = []
        elsewhere = scope.may_be_output(name)
        for source in scope.all():
            if source.relation is None:
                if self.dialect == "sqlite" and name in ROWIDS and not self._derived_has(source, name):
                    raise Refused(
                        "sql.column", f"column {name} is not allowed", hint="name it in the subquery"
                    )
                elsewhere = elsewhere or source.columns is None or name in source.columns
                continue
            if name == source.name and self.access.restricted(source.relation):
                raise self._whole_row(source)
            exists = self.access.has(source.relation, name)
            if exists is not False:
                elsewhere = True
                self._read(source.relation, name)
            elif self.access.withholds(source.relation, name):
                absent.append(source.relation)
        if absent and not elsewhere:
            raise self.access.no_column(absent[0], name)

    def _read(self, relation: str, name: str) -> None:
        self.access.check(relation, name)
        self.read[f"{relation}.{name}"] = None

    def _whole_row(self, source: Source) -> Refused:
        return Refused(
            "sql.column",
            f"whole rows of {source.relation} are not allowed",
            hint="name the columns",
            rule="columns",
        )

    # -- stars -----------------------------------------------------------------------------------

    def star(self, item: exp.Expr, scope: Scope) -> bool:
        """`*` and `t.*` of a select list: as they are, or the columns that may be seen."""
        if isinstance(item, exp.Star):
            sources = scope.sources
        elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            self.seen.add(id(item))
            sources = self._qualifier(item, scope)
        else:
            return False
        self.expand(item, sources, merged=scope.merged)
        return True

    def expand(self, item: exp.Expr, sources: list[Source], *, merged: bool = False) -> None:
        if not any(source.relation and self.access.restricted(source.relation) for source in sources):
            for source in sources:
                if source.relation:
                    self.read[f"{source.relation}.*"] = None
            return
        columns = [column for source in sources for column in self._columns_of(source)]
        if merged:
            raise Refused("sql.column", "* over JOIN ... USING is not allowed here", hint="name the columns")
        if not columns:
            raise Refused("sql.column", "no column of these relations is allowed", rule="columns")
        self._stars.append((item, columns))

    def _columns_of(self, source: Source) -> list[exp.Expr]:
        if not source.name:
            raise Refused("sql.column", "* is not allowed here", hint="give the subquery an alias")
        qualifier = _spelled(source)
        if source.relation is None or not self.access.restricted(source.relation):
            return [exp.Column(this=exp.Star(), table=qualifier)]
        known = self.access.columns(source.relation)
        if known is None:
            raise Refused(
                "sql.column",
                f"* is not allowed: columns of {source.relation} are withheld",
                hint="name the columns",
                rule="columns",
            )
        for name in known:
            self.read[f"{source.relation}.{self.access.stored(name)}"] = None
        return [exp.column(exp.to_identifier(name, quoted=True), table=qualifier.copy()) for name in known]

    def replace_stars(self) -> None:
        for star, columns in self._stars:
            if star.parent is not None:
                position = star.index or 0
                items = list(star.parent.expressions)
                star.parent.set("expressions", items[:position] + columns + items[position + 1 :])


def _spelled(source: Source) -> exp.Identifier:
    """What the source is called, spelled as it was: MariaDB's aliases are case-sensitive on Linux."""
    node = source.node
    alias = node.args.get("alias") if node is not None else None
    for named in (alias, node):
        name = named.this if named is not None else None
        if isinstance(name, exp.Identifier):
            return name.copy()
    return exp.to_identifier(source.name, quoted=True)
