"""What a login may really do, compared with what the rules say: for `policy lint --live`.

The rules hold in this process; the login's rights hold without it. Where the second are wider than the
first, a mistake of ours would be felt, so each such right is a finding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from sandbox_server.access.database import failures
from sandbox_server.access.database.databases import open_backend
from sandbox_server.access.database.names import relation_key, sees_column, sees_relation
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.guards.sql.models import SqlRules

SHOWN = 10
"""Names in one finding; the rest is a number."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`warning`: more than the rules say. `error`: so much more that the rules mean nothing."""

    level: Literal["error", "warning"]
    code: str
    message: str
    hint: str


async def audit(settings: DatabaseSettings, secret: Callable[[str], str]) -> list[Finding]:
    """Connects with the login and looks. Raises ConfigError, DatabaseUnavailable."""
    dsn = secret(settings.dsn)
    backend = open_backend(settings, dsn)
    look = {"postgres": _postgres, "mysql": _mysql, "sqlite": _sqlite}[settings.rules.dialect]
    try:
        with anyio.fail_after(settings.limits.time + settings.limits.connect, shield=True):
            async with backend.engine.connect() as connection:
                return await connection.run_sync(look, settings.rules)
    except (SQLAlchemyError, OSError, TimeoutError):
        raise failures.unavailable(settings.name, "can't be audited") from None
    finally:
        await backend.aclose()


_PG_ROLE = """
SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls
FROM pg_catalog.pg_roles WHERE rolname = current_user"""
_PG_MEMBER = """
SELECT rolname FROM pg_catalog.pg_roles WHERE rolname LIKE 'pg\\_%' AND pg_has_role(oid, 'USAGE')"""
_PG_RELATIONS = """
SELECT n.nspname AS db, c.relname AS name, pg_has_role(c.relowner, 'USAGE') AS owned,
  has_any_column_privilege(c.oid, 'SELECT') AS reads,
  has_any_column_privilege(c.oid, 'INSERT') OR has_any_column_privilege(c.oid, 'UPDATE')
    OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE') AS writes
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname <> 'information_schema' AND has_schema_privilege(n.oid, 'USAGE')
ORDER BY 1, 2 LIMIT 20000"""
_PG_COLUMNS = """
SELECT n.nspname AS db, c.relname AS name, a.attname AS col
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname <> 'information_schema' AND has_schema_privilege(n.oid, 'USAGE')
  AND has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY 1, 2, a.attnum LIMIT 100000"""
_PG_CREATE = """
SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
  AND has_schema_privilege(oid, 'CREATE')"""
_PG_EXTENSIONS = """
SELECT extname FROM pg_catalog.pg_extension
WHERE extname IN ('dblink', 'postgres_fdw', 'file_fdw', 'adminpack', 'plpython3u', 'plperlu', 'plsh')"""


def _postgres(connection: Connection, rules: SqlRules) -> list[Finding]:
    role = connection.execute(text(_PG_ROLE)).one()
    if role.rolsuper:
        return [_error("superuser", "the login is a superuser", "CREATE ROLE … NOSUPERUSER for this server")]
    findings = []
    powers = [
        name for name in ("createdb", "createrole", "replication", "bypassrls") if role._mapping[f"rol{name}"]
    ]
    if powers:
        findings.append(_warning("role", f"the role has {', '.join(powers)}", "ALTER ROLE … NO…"))
    if member := _column(connection, _PG_MEMBER):
        findings.append(
            _error("membership", f"the role is a member of {_some(member)}", "REVOKE these roles from it")
        )
    rows = connection.execute(text(_PG_RELATIONS)).all()
    findings += _owned(rows)
    findings += _beyond(rows, rules)
    findings += _columns(connection.execute(text(_PG_COLUMNS)).all(), rules)
    if schemas := _column(connection, _PG_CREATE):
        findings.append(
            _warning("create", f"the role can make objects in {_some(schemas)}", "REVOKE CREATE ON SCHEMA …")
        )
    if extensions := _column(connection, _PG_EXTENSIONS):
        findings.append(
            _warning(
                "extension",
                f"the database has {_some(extensions)}, which reach files, programs or other servers",
                "DROP EXTENSION, or REVOKE EXECUTE on its functions from PUBLIC",
            )
        )
    return findings


_MY_GLOBAL = """
SELECT DISTINCT privilege_type FROM information_schema.user_privileges
WHERE privilege_type <> 'USAGE' AND grantee = {who}"""
_MY_RELATIONS = """
SELECT t.table_schema AS db, t.table_name AS name, t.engine AS engine, t.table_type AS sort,
  GROUP_CONCAT(DISTINCT p.privilege_type) AS rights
FROM information_schema.tables t JOIN (
  SELECT table_schema AS db, NULL AS name, privilege_type FROM information_schema.schema_privileges
    WHERE grantee = {who}
  UNION ALL SELECT table_schema, table_name, privilege_type FROM information_schema.table_privileges
    WHERE grantee = {who}
  UNION ALL SELECT table_schema, table_name, privilege_type FROM information_schema.column_privileges
    WHERE grantee = {who}
) p ON t.table_schema LIKE p.db AND (p.name IS NULL OR p.name = t.table_name)
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2 LIMIT 20000"""
_MY_COLUMNS = """
SELECT c.table_schema AS db, c.table_name AS name, c.column_name AS col
FROM information_schema.columns c WHERE c.privileges LIKE '%select%'
  AND c.table_schema NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
ORDER BY 1, 2, c.ordinal_position LIMIT 100000"""
_MY_WHO = "CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')"
_MY_FATAL = {"SUPER", "FILE", "PROCESS", "CREATE USER", "RELOAD", "SHUTDOWN", "GRANT OPTION"}
_WRITES = {"INSERT", "UPDATE", "DELETE", "DROP", "ALTER", "CREATE", "TRIGGER", "CREATE VIEW"}


@dataclass(frozen=True, slots=True)
class _Right:
    db: str
    name: str
    reads: bool
    writes: bool


def _mysql(connection: Connection, rules: SqlRules) -> list[Finding]:
    everywhere = set(_column(connection, _MY_GLOBAL.format(who=_MY_WHO)))
    findings = []
    if fatal := everywhere & _MY_FATAL:
        findings.append(
            _error("privileges", f"the user has {_some(sorted(fatal))} on everything", "REVOKE them from it")
        )
    if everywhere - _MY_FATAL:
        rights = sorted(everywhere - _MY_FATAL)
        findings.append(
            _error(
                "global", f"the user has {_some(rights)} on every database", "GRANT on single tables instead"
            )
        )
    rows = connection.execute(text(_MY_RELATIONS.format(who=_MY_WHO))).all()
    held = [
        _Right(row.db, row.name, "SELECT" in rights, bool(rights & _WRITES))
        for row in rows
        for rights in [set((row.rights or "").split(","))]
    ]
    findings += _beyond(held, rules)
    if not everywhere:
        findings += _columns(connection.execute(text(_MY_COLUMNS)).all(), rules)
    if rules.mode == "write":
        loose = [
            f"{row.db}.{row.name}"
            for row in rows
            if row.sort == "BASE TABLE" and (row.engine or "").lower() != "innodb"
            and sees_relation(rules, row.db, row.name)
        ]  # fmt: skip
        if loose:
            findings.append(
                _warning("engine", f"{_some(loose)} can't be rolled back", "ALTER TABLE … ENGINE=InnoDB")
            )
    return findings


def _sqlite(connection: Connection, rules: SqlRules) -> list[Finding]:
    path = (
        connection.execute(text("SELECT file FROM pragma_database_list WHERE name = 'main'")).scalar() or ""
    )
    if rules.mode == "read" and os.access(path, os.W_OK):
        return [
            _warning(
                "writable",
                "the server's own user can write the file, although the connection only reads",
                "give it to another user, or mode 0444",
            )
        ]
    return []


def _owned(rows: Iterable[Any]) -> list[Finding]:
    names = [f"{row.db}.{row.name}" for row in rows if row.owned]
    if not names:
        return []
    return [
        _error("owner", f"the role owns {_some(names)}, and can do anything with them", "use another role")
    ]


def _beyond(rows: Iterable[Any], rules: SqlRules) -> list[Finding]:
    reads, writes = [], []
    for row in rows:
        seen = sees_relation(rules, row.db, row.name)
        if row.reads and not seen:
            reads.append(relation_key(rules, row.db, row.name))
        if row.writes and not (seen and rules.mode == "write"):
            writes.append(relation_key(rules, row.db, row.name))
    findings = []
    if reads:
        findings.append(
            _warning(
                "reads", f"the login can read {_some(reads)}, which the rules don't show", "REVOKE SELECT"
            )
        )
    if writes:
        findings.append(
            _warning("writes", f"the login can change {_some(writes)}, the rules can't", "REVOKE the rights")
        )
    return findings


def _columns(rows: Iterable[Any], rules: SqlRules) -> list[Finding]:
    names = [
        f"{row.db}.{row.name}.{row.col}"
        for row in rows
        if sees_relation(rules, row.db, row.name) and not sees_column(rules, row.db, row.name, row.col)
    ]
    if not names:
        return []
    message = f"the login can read {_some(names)}, which the rules hide"
    return [_warning("columns", message, "GRANT SELECT (columns) in place of the whole table")]


def _column(connection: Connection, sql: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(text(sql))]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _error(code: str, message: str, hint: str) -> Finding:
    return Finding("error", f"database.{code}", message, hint)


def _warning(code: str, message: str, hint: str) -> Finding:
    return Finding("warning", f"database.{code}", message, hint)
