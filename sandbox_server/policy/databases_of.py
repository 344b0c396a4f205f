"""Databases, from the file's words to `DatabaseGrant`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from sandbox_server.guards.sql import safe_builtin
from sandbox_server.guards.sql.models import Dialect, Operation, SqlRules
from sandbox_server.policy.grants import DatabaseGrant, NamedQuery, Param
from sandbox_server.policy.schema.databases import Database, Query
from sandbox_server.policy.schema.file import Role

_ALL: Final[frozenset[Operation]] = frozenset({"select", "insert", "update", "delete"})
_READ: Final[frozenset[Operation]] = frozenset({"select"})
_SCHEMAS: Final[Mapping[Dialect, str]] = MappingProxyType(
    {"sqlite": "main", "postgres": "public", "mysql": ""}
)


def databases_of(written: Iterable[tuple[str, Role]]) -> Mapping[str, tuple[DatabaseGrant, ...]]:
    """A role's allows stay with its own connection and mode; what any role denies holds for all of them."""
    sections = [
        (name, f"roles.{role}.databases.{name}", database)
        for role, rules in written
        for name, database in rules.databases.items()
    ]
    found: dict[str, list[DatabaseGrant]] = {}
    for name, place, database in sections:
        same = [other for named, _, other in sections if named == name]
        found.setdefault(name, []).append(_grant(name, place, database, same))
    return MappingProxyType({name: tuple(grants) for name, grants in found.items()})


def _grant(name: str, place: str, database: Database, same: list[Database]) -> DatabaseGrant:
    possible = _READ if database.mode == "read" else _ALL
    schema = database.default_schema
    denied = {each.lower() for other in same for each in other.functions.deny}
    preset = safe_builtin(database.dialect) if database.functions.preset == "safe_builtin" else frozenset()
    granted = preset | {each.lower() for each in database.functions.allow}
    rules = SqlRules(
        dialect=database.dialect,
        mode=database.mode,
        relations_allow=_lower(database.relations.allow),
        relations_deny=_lower(each for other in same for each in other.relations.deny),
        columns_allow=_lower(database.columns.allow),
        columns_deny=_lower(each for other in same for each in other.columns.deny),
        functions=frozenset(granted - denied),
        require_where=database.require_where,
        returning=database.returning,
        max_length=database.limits.length,
        max_depth=database.limits.depth,
        default_schema=_SCHEMAS[database.dialect] if schema is None else schema.lower(),
    )
    return DatabaseGrant(
        name,
        place,
        _name(database.dsn),
        rules,
        possible if database.operations is None else possible & frozenset(database.operations),
        rows=database.limits.rows,
        bytes=database.limits.bytes,
        time=database.limits.time,
        max_affected=database.max_affected,
        queries=MappingProxyType({key: _query(query) for key, query in database.queries.items()}),
        ad_hoc=database.ad_hoc,
        ask=database.effect == "ask",
    )


def _query(query: Query) -> NamedQuery:
    params = {
        name: Param(each.type, each.allowed, each.optional, each.min, each.max, each.max_length)
        for name, each in query.params.items()
    }
    return NamedQuery(query.sql, MappingProxyType(params))


def _name(dsn: str) -> str:
    return dsn.removeprefix("secret://")


def _lower(globs: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(glob.lower() for glob in globs))
