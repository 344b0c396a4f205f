"""Which relations and columns a connection's rules show: globs over canonical, lower-case names."""

from __future__ import annotations

from fnmatch import fnmatchcase

from sandbox_server.guards.sql.models import SqlRules


def sees_relation(rules: SqlRules, relation: str) -> bool:
    """`relation` is `schema.name`. Deny wins; an empty allow list shows nothing."""
    return _any(rules.relations_allow, relation) and not _any(rules.relations_deny, relation)


def sees_column(rules: SqlRules, relation: str, column: str) -> bool:
    """Whether rules for columns show it; those for relations are asked apart."""
    name = f"{relation}.{column}"
    return _any(rules.columns_allow, name) and not _any(rules.columns_deny, name)


def _any(globs: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, each) for each in globs)
