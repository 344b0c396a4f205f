"""Which relations and columns a connection's rules show, by the guard's own way of comparing names."""

from __future__ import annotations

from sandbox_server.guards.sql.models import SqlRules
from sandbox_server.guards.sql.names import allowing, ascii_lower, denying, is_system


def sees_relation(rules: SqlRules, schema: str, name: str) -> bool:
    """Deny wins, an empty allow list shows nothing, and a catalogue is shown only by its full name."""
    key = relation_key(rules, schema, name)
    if allowing(key, rules.relations_allow) is None or denying(key, rules.relations_deny) is not None:
        return False
    return not is_system(schema, name, rules.dialect) or key in rules.relations_allow


def sees_column(rules: SqlRules, schema: str, name: str, column: str) -> bool:
    """Whether rules for columns show it; those for relations are asked apart."""
    key = column if rules.dialect == "postgres" else ascii_lower(column)
    full = f"{relation_key(rules, schema, name)}.{key}"
    return allowing(full, rules.columns_allow) is not None and denying(full, rules.columns_deny) is None


def relation_key(rules: SqlRules, schema: str, name: str) -> str:
    """A name that the database told us, as rules and the guard's catalogue have it."""
    key = f"{schema}.{name}"
    return ascii_lower(key) if rules.dialect == "sqlite" else key
