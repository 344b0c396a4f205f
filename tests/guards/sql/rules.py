"""The database of these tests: `orders` and `users` may be read, `secret` and users.password may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sandbox_server.guards.sql import Dialect, Operation, SqlRules, Verdict, judge

DIALECTS: tuple[Dialect, ...] = ("postgres", "mysql", "sqlite")
SCHEMAS: dict[Dialect, str] = {"postgres": "public", "mysql": "shop", "sqlite": "main"}
TABLES = {
    "orders": ("id", "user_id", "total", "day", "note", "data"),
    "users": ("id", "name", "password"),
    "secret": ("id", "canary"),
}


def rules_of(dialect: Dialect, **changes: Any) -> SqlRules:
    schema = SCHEMAS[dialect]
    rules = SqlRules(
        dialect,
        relations_allow=(f"{schema}.*",),
        relations_deny=("*.secret",),
        columns_deny=("*.users.password",),
        functions=frozenset({"safe_builtin"}),
        default_schema=schema,
    )
    return replace(rules, **changes)


def catalogue(dialect: Dialect) -> dict[str, tuple[str, ...]]:
    return {f"{SCHEMAS[dialect]}.{name}": columns for name, columns in TABLES.items()}


def ask(
    dialect: Dialect, sql: str, *, operation: Operation = "select", known: bool = True, **changes: Any
) -> Verdict:
    columns = catalogue(dialect) if known else None
    if operation != "select":
        changes.setdefault("mode", "write")
    return judge(sql, rules_of(dialect, **changes), operation=operation, columns=columns)
