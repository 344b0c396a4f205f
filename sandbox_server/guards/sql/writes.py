"""INSERT, UPDATE and DELETE: the target and its columns, what is read for it, and that it is narrow."""

from __future__ import annotations

from sqlglot import exp

from sandbox_server.guards.sql.models import SqlRules
from sandbox_server.guards.sql.names import column_key
from sandbox_server.guards.sql.refusal import Refused
from sandbox_server.guards.sql.resolve import Ctes, Resolver
from sandbox_server.guards.sql.scopes import Scope, Source


def check_write(root: exp.Expr, rules: SqlRules, resolver: Resolver) -> None:
    ctes = resolver.with_(root, {}, None)
    scope = Scope()
    match root:
        case exp.Insert():
            _insert(root, resolver, scope, ctes)
        case exp.Update():
            _update(root, rules, resolver, scope, ctes)
        case exp.Delete():
            _delete(root, rules, resolver, scope, ctes)
    if (returning := root.args.get("returning")) is not None:
        _returning(returning, rules, resolver, scope, ctes)


def _insert(root: exp.Insert, resolver: Resolver, scope: Scope, ctes: Ctes) -> None:
    named = root.this
    table = named.this if isinstance(named, exp.Schema) else named
    target = _target(table, resolver, scope)
    if isinstance(named, exp.Schema):
        for column in named.expressions:
            _written(column, target, resolver)
    elif resolver.access.restricted(target.relation or ""):
        raise Refused("sql.column", f"INSERT INTO {target.relation} must name its columns", rule="columns")
    if (source := root.args.get("expression")) is not None:
        # Reads like any other; it does not see the target.
        resolver.query(source, ctes, None)
    if (conflict := root.args.get("conflict")) is not None:
        _conflict(conflict, resolver, scope, ctes)


def _conflict(node: exp.Expr, resolver: Resolver, scope: Scope, ctes: Ctes) -> None:
    action = node.args.get("action")
    if not isinstance(action, exp.Var) or action.name.upper() != "DO NOTHING":
        raise Refused(
            "sql.forbidden_node",
            "an INSERT that updates is not allowed",
            hint="use ON CONFLICT DO NOTHING, or operation update",
        )
    for key in node.args.get("conflict_keys") or ():
        resolver.visit(key, scope, ctes)


def _update(root: exp.Update, rules: SqlRules, resolver: Resolver, scope: Scope, ctes: Ctes) -> None:
    target = _target(root.this, resolver, scope)
    if (clause := root.args.get("from_")) is not None:
        resolver.source(clause.this, scope, ctes)
        resolver.joins(clause, scope, ctes)
    for change in root.expressions:
        if not isinstance(change, exp.EQ):
            raise Refused("sql.forbidden_node", "SET takes column = value")
        left = change.this
        for column in left.expressions if isinstance(left, exp.Tuple) else [left]:
            if not isinstance(column, exp.Column):
                raise Refused("sql.forbidden_node", "SET takes column = value")
            _written(column.this, target, resolver)
        resolver.visit(change, scope, ctes)
    _narrow(root, rules, resolver, scope, ctes)


def _delete(root: exp.Delete, rules: SqlRules, resolver: Resolver, scope: Scope, ctes: Ctes) -> None:
    _target(root.this, resolver, scope)
    for node in root.args.get("using") or ():
        resolver.source(node, scope, ctes)
    _narrow(root, rules, resolver, scope, ctes)


def _target(table: exp.Expr, resolver: Resolver, scope: Scope) -> Source:
    if not isinstance(table, exp.Table) or table.args.get("joins") or table.args.get("laterals"):
        raise Refused("sql.forbidden_node", "one relation at a time can be written")
    alias = table.args.get("alias")
    if alias is not None and alias.args.get("columns"):
        raise Refused("sql.forbidden_node", "columns of the target may not be renamed")
    relation = resolver.target(table)
    known = resolver.access.columns(relation)
    columns = None if known is None else frozenset(map(resolver.access.stored, known))
    name = alias.this if alias is not None else table.this
    source = Source(column_key(name, resolver.dialect), relation, columns, table)
    scope.sources.append(source)
    return source


def _written(name: exp.Expr, target: Source, resolver: Resolver) -> None:
    relation = target.relation
    if not isinstance(name, exp.Identifier) or relation is None:
        raise Refused("sql.forbidden_node", "a column's name is expected")
    column = column_key(name, resolver.dialect)
    if resolver.access.has(relation, column) is False:
        raise resolver.access.no_column(relation, column)
    resolver.access.check(relation, column)
    resolver.columns.read[f"{relation}.{column}"] = None


def _narrow(root: exp.Expr, rules: SqlRules, resolver: Resolver, scope: Scope, ctes: Ctes) -> None:
    where = root.args.get("where")
    if rules.require_where and (where is None or not _selects(where.this)):
        raise Refused(
            "sql.where",
            f"{root.key} needs a WHERE that depends on a column",
            hint="say which rows: WHERE id = :id",
            rule="require_where",
        )
    for part in ("where", "order", "limit"):
        if (clause := root.args.get(part)) is not None:
            resolver.visit(clause, scope, ctes)


def _selects(condition: exp.Expr) -> bool:
    """Whether it depends on a column; the plain ways to say "all" don't. Affected rows are capped, too."""
    match condition:
        case exp.Paren():
            return _selects(condition.this)
        case exp.And():
            return _selects(condition.this) or _selects(condition.expression)
        case exp.Or():
            return _selects(condition.this) and _selects(condition.expression)
        case exp.Binary() if condition.this == condition.expression:
            return False
    return condition.find(exp.Column) is not None


def _returning(node: exp.Expr, rules: SqlRules, resolver: Resolver, scope: Scope, ctes: Ctes) -> None:
    if not rules.returning:
        raise Refused("sql.returning", "RETURNING is not allowed here", rule="returning")
    for item in node.expressions:
        if isinstance(item, exp.Star):
            resolver.columns.expand(item, scope.sources)
        else:
            resolver.visit(item, scope, ctes)
