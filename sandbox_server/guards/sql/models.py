"""What a connection grants, and what the guard makes of a statement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Dialect = Literal["sqlite", "postgres", "mysql"]
Operation = Literal["select", "insert", "update", "delete"]


@dataclass(frozen=True, slots=True)
class SqlRules:
    """Globs are lower case, `schema.relation` and `schema.relation.column` (SQLite's schema is `main`);
    deny wins; empty allow means nothing. `functions` are the names allowed beyond operators and syntax."""

    dialect: Dialect
    mode: Literal["read", "write"] = "read"
    relations_allow: tuple[str, ...] = ()
    relations_deny: tuple[str, ...] = ()
    columns_allow: tuple[str, ...] = ("*",)
    columns_deny: tuple[str, ...] = ()
    functions: frozenset[str] = frozenset()
    require_where: bool = True
    returning: bool = True
    max_length: int = 64 * 1024
    max_depth: int = 100
    default_schema: str = ""
    """Where an unqualified relation is looked up: public, main, or MariaDB's database."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is a code such as `sql.ok`, `sql.parse`, `sql.forbidden_node`, `sql.relation`, `sql.column`,
    `sql.function`, `sql.multiple`, `sql.operation`, `sql.mode`; `sql` is the re-serialised statement without
    comments, the only text that may run, empty unless `allowed`."""

    allowed: bool
    reason: str
    message: str
    sql: str = ""
    operation: Operation | None = None
    relations: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    hint: str = ""
    detail: str = field(default="", compare=False)
    rule: str = ""
    """Which of the rules decided: `relations.deny[1]`, `functions`, `` for none."""
    parameters: tuple[str, ...] = ()
    """The named parameters (`:name`) of `sql`, each once, in the order of their first use."""
