"""Finds what every name of a statement means, and judges it.

Our own scopes, walked by identity: a table that the walk did not come across, or a column, is a refusal, so a
place where the parser hides one is no way around. A name is a CTE everywhere or a relation everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from sandbox_server.guards.sql.access import Access
from sandbox_server.guards.sql.columns import Columns
from sandbox_server.guards.sql.functions import Functions
from sandbox_server.guards.sql.names import column_key, fold
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.scopes import Scope, Source, outputs, renamed

Ctes = dict[str, frozenset[str] | None]
_APART = frozenset({"with_", "from_", "joins", "laterals"})


class Resolver:
    def __init__(self, root: exp.Expr, access: Access, functions: Functions) -> None:
        self.access = access
        self.functions = functions
        self.dialect = access.dialect
        self.relations: dict[str, None] = {}
        self.columns = Columns(access, functions)
        self.real: list[tuple[exp.Table, str]] = []
        """Tables and the relations that they are, for qualifying them in the text."""
        self._seen = self.columns.seen
        self._cte_names = {fold(cte.alias) for cte in root.find_all(exp.CTE)}

    def finish(self, root: exp.Expr) -> None:
        """Raises if anything was overlooked; then replaces `*` where columns are withheld."""
        for node in root.find_all(exp.Table, exp.Column):
            if id(node) not in self._seen:
                raise Refused("sql.forbidden_node", f"{node.name} stands where no name is expected")
        self.columns.replace_stars()

    # -- queries ---------------------------------------------------------------------------------

    def query(self, node: exp.Expr, ctes: Ctes, outer: Scope | None) -> frozenset[str] | None:
        """Judges a query; the names of its columns, if they are known."""
        ctes = self.with_(node, ctes, outer)
        if isinstance(node, exp.Select):
            return self._select(node, ctes, outer)
        names: frozenset[str] | None = None
        if isinstance(node, exp.SetOperation):
            names = self.query(node.this, ctes, outer)
            self.query(node.expression, ctes, outer)
            self._rest(node, Scope(outer), ctes, _APART | {"this", "expression"})
        elif isinstance(node, exp.Subquery | exp.Paren) and isinstance(node.this, exp.Query):
            names = self.query(node.this, ctes, outer)
            if node.args.get("joins"):
                raise Refused("sql.forbidden_node", "a join is not allowed here")
            self._rest(node, Scope(outer), ctes, _APART | {"this", "alias"})
        elif isinstance(node, exp.Values):
            self._rest(node, Scope(outer), ctes, _APART | {"alias"})
            names = _numbered(node)
        else:
            raise Refused("sql.forbidden_node", f"{type(node).__name__} is not allowed as a query")
        return names

    def with_(self, node: exp.Expr, ctes: Ctes, outer: Scope | None) -> Ctes:
        clause = node.args.get("with_")
        if not isinstance(clause, exp.With):
            return ctes
        ctes = dict(ctes)
        for cte in clause.expressions:
            name = column_key(cte.args["alias"].this, self.dialect)
            inner: Ctes = {**ctes, name: None} if clause.args.get("recursive") else ctes
            known = self.query(cte.this, inner, outer)
            ctes[name] = self._renamed(cte, known)
        return ctes

    def _select(self, node: exp.Select, ctes: Ctes, outer: Scope | None) -> frozenset[str] | None:
        scope = Scope(outer)
        if (clause := node.args.get("from_")) is not None:
            self.source(clause.this, scope, ctes)
        for lateral in node.args.get("laterals") or ():
            self.source(lateral, scope, ctes)
        self.joins(node, scope, ctes)
        names = outputs(node, scope, self.access)
        scope.aliases = self._aliases(node)
        for item in node.expressions:
            if not self.columns.star(item, scope):
                self.visit(item, scope, ctes)
        self._rest(node, scope, ctes, _APART | {"expressions"})
        return names

    def _aliases(self, node: exp.Select) -> frozenset[str]:
        names = (item.args.get("alias") for item in node.expressions if isinstance(item, exp.Alias))
        return frozenset(column_key(each, self.dialect) for each in names if isinstance(each, exp.Identifier))

    def _rest(self, node: exp.Expr, scope: Scope, ctes: Ctes, without: frozenset[str]) -> None:
        for part, value in node.args.items():
            if part not in without:
                for child in value if isinstance(value, list) else (value,):
                    if isinstance(child, exp.Expr):
                        self.visit(child, scope, ctes)

    # -- FROM ------------------------------------------------------------------------------------

    def joins(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> None:
        for join in node.args.get("joins") or ():
            self.source(join.this, scope, ctes)
            using = join.args.get("using") or ()
            if using or join.method.upper() == "NATURAL":
                self._merge(using, scope)
            if (condition := join.args.get("on")) is not None:
                self.visit(condition, scope, ctes)

    def _merge(self, using: Sequence[exp.Expr], scope: Scope) -> None:
        scope.merged = True
        for name in using:
            identifier = name.this if isinstance(name, exp.Column) else name
            if not isinstance(identifier, exp.Identifier):
                raise Refused("sql.forbidden_node", "USING takes names of columns")
            self.columns.unqualified(column_key(identifier, self.dialect), scope)
        for source in scope.sources:
            if not using and source.relation and self.access.restricted(source.relation):
                raise Refused(
                    "sql.column",
                    "NATURAL JOIN is not allowed here: it compares columns without naming them",
                    hint="write JOIN ... ON",
                    rule="columns",
                )

    def source(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> None:
        match node:
            case exp.Table():
                self._table(node, scope, ctes)
                self.joins(node, scope, ctes)
            case exp.Subquery() if isinstance(node.this, exp.Query | exp.Values):
                known = self.query(node.this, self.with_(node, ctes, scope.outer), scope.outer)
                self._rest(node, Scope(scope.outer), ctes, _APART | {"this", "alias"})
                self._derived(node, scope, known)
                self.joins(node, scope, ctes)
            case exp.Subquery() if not node.args.get("alias"):
                self.source(node.this, scope, ctes)  # a join in parentheses
                self.joins(node, scope, ctes)
            case exp.Lateral() if isinstance(node.this, exp.Subquery):
                self._derived(node, scope, self.query(node.this, ctes, scope))
            case exp.Lateral() if isinstance(node.this, exp.Func):
                self._function(node, node.this, scope, ctes)
            case exp.Values():
                self._rest(node, Scope(scope.outer), ctes, _APART | {"alias"})
                self._derived(node, scope, _numbered(node))
            case exp.Unnest():
                self._function(node, node, scope, ctes)
            case _:
                raise Refused("sql.forbidden_node", f"{type(node).__name__} is not allowed in FROM")

    def _derived(self, node: exp.Expr, scope: Scope, known: frozenset[str] | None) -> None:
        scope.sources.append(Source(self._alias(node) or "", None, self._renamed(node, known), node))

    def _table(self, node: exp.Table, scope: Scope, ctes: Ctes) -> None:
        self._seen.add(id(node))
        if not isinstance(node.this, exp.Identifier):
            self._function(node, node.this, scope, ctes)
            return
        own = column_key(node.this, self.dialect)
        bare = not node.args.get("db") and not node.args.get("catalog")
        if bare and own in ctes:
            scope.sources.append(Source(self._alias(node) or own, None, self._renamed(node, ctes[own]), node))
            return
        relation = self.target(node)
        known = self.access.columns(relation)
        columns = None if known is None else frozenset(map(self.access.stored, known))
        if (alias := node.args.get("alias")) is not None and alias.args.get("columns"):
            if self.access.restricted(relation):
                raise Refused(
                    "sql.column", f"columns of {relation} may not be renamed in FROM", hint="rename in SELECT"
                )
            columns = self._renamed(node, columns)
            scope.sources.append(Source(self._alias(node) or own, None, columns, node))
            return
        scope.sources.append(Source(self._alias(node) or own, relation, columns, node))

    def target(self, node: exp.Table) -> str:
        """A table that is a relation: judged, noted, and no CTE's namesake."""
        self._seen.add(id(node))
        relation = self.access.relation(node)
        if fold(node.name) in self._cte_names:
            raise Refused(
                "sql.cte",
                f"{node.name} names both a CTE and a relation",
                hint="give the CTE another name; one that calls itself needs WITH RECURSIVE",
            )
        self.relations[relation] = None
        self.real.append((node, relation))
        return relation

    def _function(self, node: exp.Expr, call: exp.Expr, scope: Scope, ctes: Ctes) -> None:
        """A function in FROM. It sees what stands before it. Its columns are those that its alias names."""
        if not isinstance(call, exp.Func) or isinstance(call, exp.SubqueryPredicate):
            raise Refused("sql.relation", "names of more than schema.relation are not allowed")
        name = _called(call)
        self.functions.check_table(name)
        self._rest(call, scope, ctes, frozenset({"alias", "offset"}))
        alias = self._alias(node) or name
        known = self._renamed(node, frozenset({alias, name, "ordinality", "key", "value"}))
        if self.dialect != "postgres":
            known = None
        scope.sources.append(Source(alias, None, known, node))

    def _alias(self, node: exp.Expr) -> str | None:
        alias = node.args.get("alias")
        name = alias.this if isinstance(alias, exp.TableAlias) else None
        return column_key(name, self.dialect) if isinstance(name, exp.Identifier) else None

    def _renamed(self, node: exp.Expr, known: frozenset[str] | None) -> frozenset[str] | None:
        names = renamed(node.args.get("alias"), known, lambda name: column_key(name, self.dialect))
        if (
            isinstance(node, exp.Unnest)
            and names is not None
            and isinstance(node.args.get("offset"), exp.Identifier)
        ):
            return names | {column_key(node.args["offset"], self.dialect)}
        return names

    # -- expressions -----------------------------------------------------------------------------

    def visit(self, node: exp.Expr, scope: Scope, ctes: Ctes) -> None:
        stack = [node]
        while stack:
            at = stack.pop()
            match at:
                case exp.Query() | exp.Values():
                    self.query(at, ctes, scope)
                case exp.Column():
                    self.columns.judge(at, scope)
                case exp.Table() | exp.Lateral() | exp.DML() | exp.Insert():
                    raise Refused("sql.forbidden_node", f"{type(at).__name__} is not allowed here")
                case exp.Dot():
                    self._dot(at)
                    stack.append(at.expression)
                case exp.Star() if not _counts(at.parent):
                    raise Refused("sql.column", "* is not allowed here", hint="name the columns")
                case _:
                    stack.extend(at.iter_expressions())

    def _dot(self, node: exp.Dot) -> None:
        """`schema.function(...)`. PostgreSQL's `(value).name` would call any function called name."""
        if not isinstance(node.this, exp.Identifier) or not isinstance(node.expression, exp.Func):
            raise Refused(
                "sql.forbidden_node", "(...).name is not allowed", hint="select it from a subquery or LATERAL"
            )
        self.functions.check(f"{node.this.name.lower()}.{_called(node.expression)}")


def _numbered(values: exp.Values) -> frozenset[str]:
    """What the engines call the columns of VALUES."""
    widest = max((len(row.expressions) for row in values.expressions), default=1)
    return frozenset(f"{name}{number}" for name in ("column", "column_") for number in range(widest + 1))


def _counts(call: exp.Expr | None) -> bool:
    return isinstance(call, exp.Anonymous) and str(call.this).lower() == "count"


def _called(call: exp.Expr) -> str:
    if isinstance(call, exp.Anonymous):
        return str(call.this).lower()
    assert isinstance(call, exp.Func)
    return call.sql_name().lower()
