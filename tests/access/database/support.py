"""Databases with the same little shop in them, and policies to look at them through."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sandbox_server.access.database.databases import Columns, Databases, settled
from sandbox_server.access.database.settings import DatabaseLimits, DatabaseSettings
from sandbox_server.errors import PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.guards.sql import judge
from sandbox_server.guards.sql.models import Dialect, Operation, SqlRules, Verdict
from tests.databases import Server

FUNCTIONS = frozenset({"count", "sum", "avg", "min", "max", "lower", "upper", "coalesce", "substr", "length"})
ME = Caller("me")
SCHEMAS = {"sqlite": "main", "postgres": "public", "mysql": "app"}
TABLES = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR(50) NOT NULL, email VARCHAR(50), tier INTEGER);
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL, total DECIMAL(10, 2), placed DATE,
  FOREIGN KEY (customer_id) REFERENCES customers (id));
CREATE TABLE secret (id INTEGER PRIMARY KEY, token VARCHAR(50));
CREATE VIEW leak AS SELECT token FROM secret;
INSERT INTO customers VALUES (1, 'Ada', 'ada@example.org', 1), (2, 'Bob', NULL, 2), (3, 'Cléo', 'c@example.org', 1);
INSERT INTO orders VALUES (1, 1, 10.50, '2026-01-01'), (2, 1, 20.00, '2026-01-02'), (3, 2, 5.25, '2026-01-03');
INSERT INTO secret VALUES (1, 'canary');
"""  # noqa: E501


@dataclass(frozen=True)
class Place:
    """A database of one dialect with the shop in it, and an almighty login."""

    dialect: Dialect
    dsn: str
    server: Server | None = None
    path: Path | None = None

    @property
    def schema(self) -> str:
        return SCHEMAS[self.dialect]

    def rules(self, **changes: object) -> SqlRules:
        rules = SqlRules(
            dialect=self.dialect,
            relations_allow=(f"{self.schema}.customers", f"{self.schema}.orders"),
            functions=FUNCTIONS,
            default_schema=self.schema,
        )
        return replace(rules, **changes)  # type: ignore[arg-type]

    def settings(self, rules: SqlRules | None = None, **changes: object) -> DatabaseSettings:
        limits = {name: changes.pop(name) for name in list(changes) if name in DatabaseLimits.__slots__}
        plain = DatabaseSettings(
            name="shop",
            dsn="shop-dsn",
            rules=rules or self.rules(),
            limits=replace(DatabaseLimits(time=5.0, connect=5.0), **limits),  # type: ignore[arg-type]
        )
        return replace(plain, **changes)  # type: ignore[arg-type]

    def run(self, sql: str) -> str:
        """As the almighty user, past everything of ours."""
        return run_sql(self, sql)


def run_sql(place: Place, sql: str) -> str:
    if place.path is not None:
        with sqlite3.connect(place.path) as connection:
            connection.executescript(sql) if ";" in sql else None
            rows = [] if ";" in sql else connection.execute(sql).fetchall()
        connection.close()
        return "\n".join("\t".join(map(str, row)) for row in rows)
    server = place.server
    assert server is not None
    if place.dialect == "postgres":
        command = ["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        command += ["-h", server.host, "-p", str(server.port), "-U", server.user, place.dsn.rsplit("/", 1)[1]]
        environment = {"PGPASSWORD": server.password}
    else:
        command = [
            "mariadb",
            "--no-defaults",
            "--default-character-set=utf8mb4",
            "-N",
            "-B",
            f"--socket={server.socket}",
            f"-u{server.user}",
        ]
        command += [f"-p{server.password}", "app"]
        environment = {}
    path = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, input=sql, capture_output=True, text=True, env=path | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Guarded:
    """The guard decides, by the rules of each principal."""

    settings: Mapping[str, DatabaseSettings]
    asked: list[str] = field(default_factory=list)

    def databases(self, caller: Caller) -> Mapping[str, tuple[DatabaseSettings, ...]]:
        return {name: (each,) for name, each in self.settings.items()}

    def judge(
        self, name: str, sql: str, operation: Operation, caller: Caller, columns: Columns | None
    ) -> tuple[DatabaseSettings, Verdict]:
        self.asked.append(sql)
        settings = self.settings[name]
        text, judged_by = settled(settings, sql)
        verdict = judge(text, judged_by.rules, operation=operation, columns=columns)
        if not verdict.allowed:
            raise PolicyDenied(verdict.message, rule=verdict.rule or verdict.reason, hint=verdict.hint)
        return settings, verdict


class Blind(Guarded):
    """A guard that lets everything pass: what is left then are the backstops."""

    def judge(
        self, name: str, sql: str, operation: Operation, caller: Caller, columns: Columns | None
    ) -> tuple[DatabaseSettings, Verdict]:
        settings = self.settings[name]
        text, _ = settled(settings, sql)
        return settings, Verdict(True, "sql.ok", "", sql=text, operation=operation, rule="test")


def databases(place: Place, settings: DatabaseSettings, *, blind: bool = False) -> Databases:
    policy = (Blind if blind else Guarded)({settings.name: settings})
    return Databases(policy, {"shop-dsn": place.dsn}.__getitem__)
