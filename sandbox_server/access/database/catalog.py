"""What a database holds: relations, columns, keys. Cached, and filtered for each caller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine.reflection import Inspector, ObjectKind
from sqlalchemy.exc import SQLAlchemyError

from sandbox_server.access.database import failures
from sandbox_server.access.database.backend import Backend
from sandbox_server.access.database.names import relation_key, sees_column, sees_relation
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.errors import DatabaseUnavailable
from sandbox_server.guards.sql.models import SqlRules

TTL = 60.0
"""Seconds that a catalogue is believed; a policy's new revision makes new backends, and reads it anew."""
MAX_RELATIONS = 2000
_SYSTEM = {"information_schema", "pg_catalog", "pg_toast", "mysql", "performance_schema", "sys"}


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    name: str
    type: str
    nullable: bool = True
    comment: str = ""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    columns: tuple[str, ...]
    schema: str
    relation: str
    target: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Names are as the database spells them."""

    schema: str
    name: str
    kind: str
    columns: tuple[ColumnInfo, ...]
    comment: str = ""
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()


Catalog = Mapping[str, Relation]
Columns = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Known:
    """`columns` is the same object for as long as nothing in it changes: verdicts are remembered by it."""

    read: float
    catalog: Catalog
    columns: Columns


class Catalogs:
    """One catalogue per backend, read once for all who wait for it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[str, ...]], _Known] = {}
        self._locks: dict[int, anyio.Lock] = {}
        self._failed: dict[int, float] = {}

    async def get(self, backend: Backend, settings: DatabaseSettings) -> Catalog:
        """Raises DatabaseUnavailable: once for all who waited, not for one after the other."""
        return (await self._get(backend, settings)).catalog

    async def columns(self, backend: Backend, settings: DatabaseSettings) -> Columns:
        """Of every relation, for the guard: it must know also those that a caller may not see."""
        return (await self._get(backend, settings)).columns

    async def _get(self, backend: Backend, settings: DatabaseSettings) -> _Known:
        key, asked = (id(backend), tuple(sorted(_schemas(settings.rules)))), time.monotonic()
        async with self._locks.setdefault(id(backend), anyio.Lock()):
            known = self._known.get(key)
            if known is None or time.monotonic() - known.read > TTL:
                if self._failed.get(id(backend), 0.0) >= asked:
                    raise _untold(settings)
                catalog = await self._read(backend, settings)
                columns = columns_of(catalog)
                if known is not None and known.columns == columns:
                    columns = known.columns
                known = self._known[key] = _Known(time.monotonic(), catalog, columns)
        return known

    async def _read(self, backend: Backend, settings: DatabaseSettings) -> Catalog:
        try:
            return await _read(backend, settings)
        except DatabaseUnavailable:
            self._failed[id(backend)] = time.monotonic()
            raise

    def forget(self, backend: Backend) -> None:
        for key in [key for key in self._known if key[0] == id(backend)]:
            del self._known[key]
        self._locks.pop(id(backend), None)
        self._failed.pop(id(backend), None)


async def _read(backend: Backend, settings: DatabaseSettings) -> Catalog:
    try:
        with anyio.fail_after(settings.limits.time + settings.limits.connect, shield=True):
            async with backend.engine.connect() as connection:
                return await connection.run_sync(_reflect, settings.rules)
    except (SQLAlchemyError, OSError, TimeoutError):
        raise _untold(settings) from None


def _untold(settings: DatabaseSettings) -> DatabaseUnavailable:
    return failures.unavailable(settings.name, "does not tell its schema")


def _reflect(connection: Connection, rules: SqlRules) -> Catalog:
    found: dict[str, Relation] = {}
    if rules.dialect == "mysql":
        for relation in _mysql(connection, rules):
            found[relation_key(rules, relation.schema, relation.name)] = relation
        return found
    inspector = inspect(connection)
    wanted: set[str] = _schemas(rules)
    schemas: dict[str, str | None] = {name: name for name in wanted}
    if rules.dialect == "sqlite":
        schemas = {"main": None}
    elif not wanted:
        schemas = {name: name for name in inspector.get_schema_names() if name not in _SYSTEM}
    for name, schema in schemas.items():
        found |= {
            relation_key(rules, each.schema, each.name): each for each in _inspected(inspector, name, schema)
        }
    return dict(list(found.items())[:MAX_RELATIONS])


def _schemas(rules: SqlRules) -> set[str]:
    """The schemas that the rules name; none if a glob leaves them open."""
    schemas = {each.partition(".")[0] for each in rules.relations_allow}
    return set() if any(set("*?[") & set(schema) for schema in schemas) else schemas


def _inspected(inspector: Inspector, name: str, schema: str | None) -> list[Relation]:
    columns = inspector.get_multi_columns(schema=schema, kind=ObjectKind.ANY)
    keys = inspector.get_multi_pk_constraint(schema=schema, kind=ObjectKind.ANY)
    foreign = inspector.get_multi_foreign_keys(schema=schema, kind=ObjectKind.ANY)
    tables = set(inspector.get_table_names(schema=schema))
    comments: Any = {}
    if inspector.dialect.supports_comments:
        comments = inspector.get_multi_table_comment(schema=schema, kind=ObjectKind.ANY)
    return [
        Relation(
            schema=name,
            name=key[1] or "",
            kind="table" if key[1] in tables else "view",
            columns=tuple(
                ColumnInfo(
                    each["name"], _type(each["type"]), bool(each["nullable"]), each.get("comment") or ""
                )
                for each in listed
            ),
            comment=_comment(comments, key),
            primary_key=_constrained(keys.get(key)),
            foreign_keys=tuple(
                ForeignKey(
                    tuple(each["constrained_columns"]),
                    each["referred_schema"] or name,
                    each["referred_table"],
                    tuple(each["referred_columns"]),
                )
                for each in foreign.get(key) or ()
            ),
        )
        for key, listed in columns.items()
    ]


def _comment(comments: Any, key: Any) -> str:
    found: Any = comments.get(key) or {}
    return found.get("text") or ""


def _constrained(key: Any) -> tuple[str, ...]:
    return tuple(key["constrained_columns"]) if key else ()


def _type(kind: Any) -> str:
    try:
        return str(kind).lower()
    except Exception:  # a type that SQLAlchemy knows of but can't write without its dialect
        return type(kind).__name__.lower()


_MYSQL_COLUMNS = """
SELECT c.table_schema AS db, c.table_name AS name, c.column_name AS col, c.column_type AS kind,
       c.is_nullable AS nullable, c.column_comment AS note, c.column_key AS part,
       t.table_type AS sort, t.table_comment AS about
FROM information_schema.columns c
JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
WHERE c.table_schema NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
ORDER BY c.table_schema, c.table_name, c.ordinal_position LIMIT 100000"""
_MYSQL_KEYS = """
SELECT table_schema AS db, table_name AS name, constraint_name AS part, column_name AS col,
       referenced_table_schema AS to_db, referenced_table_name AS to_name, referenced_column_name AS to_col
FROM information_schema.key_column_usage
WHERE referenced_table_name IS NOT NULL
ORDER BY table_schema, table_name, constraint_name, ordinal_position LIMIT 100000"""


def _mysql(connection: Connection, rules: SqlRules) -> list[Relation]:
    """Not SQLAlchemy's way, a SHOW CREATE TABLE for each, which needs rights that a reader has not."""
    wanted = _schemas(rules)
    keys: dict[str, dict[str, ForeignKey]] = {}
    for row in connection.execute(text(_MYSQL_KEYS)):
        known = keys.setdefault(f"{row.db}.{row.name}", {})
        key = known.get(row.part) or ForeignKey((), row.to_db, row.to_name, ())
        known[row.part] = replace(key, columns=(*key.columns, row.col), target=(*key.target, row.to_col))
    relations: dict[str, Relation] = {}
    for row in connection.execute(text(_MYSQL_COLUMNS)):
        name = f"{row.db}.{row.name}"
        if wanted and row.db not in wanted:
            continue
        if name not in relations and len(relations) >= MAX_RELATIONS:
            break
        view = row.sort == "VIEW"
        old = relations.get(name) or Relation(
            row.db, row.name, "view" if view else "table", (), "" if view else row.about or ""
        )
        column = ColumnInfo(row.col, row.kind, row.nullable == "YES", row.note or "")
        relations[name] = replace(
            old,
            columns=(*old.columns, column),
            primary_key=(*old.primary_key, row.col) if row.part == "PRI" else old.primary_key,
            foreign_keys=tuple(keys.get(name, {}).values()),
        )
    return list(relations.values())


def visible_part(catalog: Catalog, rules: SqlRules) -> list[Relation]:
    """What a caller with these rules may know of."""
    shown = []
    for relation in catalog.values():
        if not sees_relation(rules, relation.schema, relation.name):
            continue
        columns = tuple(
            each for each in relation.columns if sees_column(rules, relation.schema, relation.name, each.name)
        )
        names = {each.name for each in columns}
        foreign = tuple(
            key for key in relation.foreign_keys if names.issuperset(key.columns) and _sees_target(rules, key)
        )
        primary = relation.primary_key if names.issuperset(relation.primary_key) else ()
        if columns:
            shown.append(replace(relation, columns=columns, primary_key=primary, foreign_keys=foreign))
    return shown


def _sees_target(rules: SqlRules, key: ForeignKey) -> bool:
    return sees_relation(rules, key.schema, key.relation) and all(
        sees_column(rules, key.schema, key.relation, each) for each in key.target
    )


def columns_of(catalog: Catalog) -> Columns:
    return {key: tuple(column.name for column in relation.columns) for key, relation in catalog.items()}
