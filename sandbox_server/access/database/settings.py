"""What the operator says of one connection, as this package needs it. The policy builds these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sandbox_server.guards.sql.models import Operation, SqlRules

ParamType = Literal["int", "float", "decimal", "text", "bool", "date", "timestamp", "uuid"]
Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """Bytes, seconds and counts of one call. `cell` is what is kept of one value, `bytes` of all of them.
    `connections` at once, `wait` for one of them to become free."""

    rows: int = 1000
    bytes: int = 1024**2
    cell: int = 64 * 1024
    time: float = 15.0
    lock_time: float = 3.0
    max_affected: int = 100
    offset: int = 1_000_000
    connections: int = 4
    wait: float = 5.0
    connect: float = 5.0


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a named query. `minimum` and `maximum` are in the words of its type (`2026-01-31`)."""

    type: ParamType
    required: bool = True
    default: Scalar = None
    minimum: Scalar = None
    maximum: Scalar = None
    allowed: tuple[Scalar, ...] = ()
    max_length: int = 1000
    description: str = ""


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """SQL of the operator's, called as `@name`. `rules` replace the connection's for it alone: a role can
    have queries without being granted the relations they read."""

    sql: str
    params: Mapping[str, Param] = field(default_factory=dict)
    operation: Operation | None = None
    """None: whatever the guard sees that it is."""
    rules: SqlRules | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """`dsn` is the name of a secret, never its value. `reset`: `session` clears a connection's state between
    two calls, `reconnect` opens a new one for each (SQLite always does)."""

    name: str
    dsn: str = field(repr=False)
    rules: SqlRules
    limits: DatabaseLimits = DatabaseLimits()
    queries: Mapping[str, NamedQuery] = field(default_factory=dict, hash=False)
    reset: Literal["session", "reconnect"] = "session"
    description: str = ""

    @property
    def reads_only(self) -> bool:
        return self.rules.mode == "read"
