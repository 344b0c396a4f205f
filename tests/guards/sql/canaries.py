"""Real databases with something in them that nobody may see, and connections that may see everything."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pymysql

from sandbox_server.guards.sql import Dialect
from tests.databases import Server

CANARY = "CANARY-5f3a"
ROWS = 200

_TABLES = [
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, total {number}, day {date}, note {text}, "
    "data {json})",
    "CREATE TABLE users (id INTEGER PRIMARY KEY, name {text}, password {text})",
    "CREATE TABLE secret (id INTEGER PRIMARY KEY, canary {text})",
    "INSERT INTO users VALUES (1, 'ada', '"
    + CANARY
    + "'), (2, 'bob', '"
    + CANARY
    + "'), (3, 'a_b', '"
    + CANARY
    + "')",
    "INSERT INTO secret VALUES (1, '" + CANARY + "'), (2, '" + CANARY + "')",
    """INSERT INTO orders VALUES
      (1, 1, 10.5, '2024-01-01', 'a,b', '{{"a": {{"b": 1}}, "b": "x", "c": [1, 2], "l": [{{"a": 1}}]}}'),
      (2, 1, 20.0, '2024-02-03', NULL, '{{"a": 2, "l": []}}'),
      (3, 2, 120.25, '2024-02-03', '50% off', NULL),
      (4, 3, NULL, '2024-12-31', 'it''s', '{{"b": {{"c": "y"}}, "l": [{{"a": 2}}, {{"a": 3}}]}}'),
      (5, 2, 3.0, '2024-07-15', 'aab', '{{"a": [1]}}')""",
]
_TYPES = {
    "postgres": {"number": "NUMERIC(10, 2)", "date": "TIMESTAMP", "text": "TEXT", "json": "JSONB"},
    "mysql": {"number": "DECIMAL(10, 2)", "date": "DATETIME", "text": "VARCHAR(200)", "json": "LONGTEXT"},
    "sqlite": {"number": "NUMERIC", "date": "TEXT", "text": "TEXT", "json": "TEXT"},
}


class Failed(Exception):
    """The engine said no; its words."""


class Engine(Protocol):
    dialect: Dialect
    touched: set[str]
    """What the engine itself said was read of what may not be; SQLite tells."""

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Up to ROWS rows, committed. Raises Failed."""
        ...

    def state(self) -> object:
        """Everything that no query may change."""
        ...


def statements(dialect: Dialect) -> list[str]:
    return [text.format(**_TYPES[dialect]) for text in _TABLES]


class Sqlite:
    dialect: Dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.touched: set[str] = set()
        self.steps = 0

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        self.steps = 0
        self._connection.set_authorizer(self._seen)
        try:
            rows = self._connection.execute(sql).fetchmany(ROWS)
            self._connection.commit()
        except sqlite3.Error as error:
            self._connection.rollback()
            raise Failed(str(error)) from error
        finally:
            self._connection.set_authorizer(None)
        return rows

    def state(self) -> object:
        return list(self._connection.iterdump())

    def stop(self) -> bool:
        self.steps += 1
        return self.steps > 200

    def _seen(self, action: int, one: str | None, two: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and one is not None:
            table = one.lower()
            if table == "secret" or table.startswith("sqlite_") or (table, two) == ("users", "password"):
                self.touched.add(f"{one}.{two}")
        elif action not in (
            sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
            sqlite3.SQLITE_TRANSACTION,
        ):  # fmt: skip
            self.touched.add(f"action {action} {one}")
        return sqlite3.SQLITE_OK


@contextmanager
def sqlite_engine(path: Path) -> Iterator[Sqlite]:
    connection = sqlite3.connect(path / "canaries.db")
    try:
        for text in statements("sqlite"):
            connection.execute(text)
        connection.commit()
        connection.execute(
            "SELECT * FROM json_each('1'), json_tree('1')"
        ).fetchall()  # their first use registers them
        engine = Sqlite(connection)
        connection.set_progress_handler(engine.stop, 10_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000_000)
        yield engine
    finally:
        connection.close()


class Postgres:
    dialect: Dialect = "postgres"

    def __init__(self, connection: Any, run: Callable[[Any], Any]) -> None:
        self._connection = connection
        self._run = run
        self.touched: set[str] = set()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in self._run(self._fetch(sql))]
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, OverflowError) as error:
            raise Failed(str(error)) from error

    async def _fetch(self, sql: str) -> list[Any]:
        async with self._connection.transaction():
            cursor = await self._connection.cursor(sql)
            rows: list[Any] = await cursor.fetch(ROWS)
            return rows

    def state(self) -> object:
        tables = self._run(self._connection.fetch("SELECT relname FROM pg_class ORDER BY oid"))
        locks = self._run(self._connection.fetch("SELECT * FROM pg_locks WHERE locktype = 'advisory'"))
        return (
            tables,
            locks,
            [self.run(f"SELECT * FROM {name} ORDER BY id") for name in ("orders", "users", "secret")],
        )


@contextmanager
def postgres_engine(server: Server) -> Iterator[Postgres]:
    """In a database of its own: the server is everybody's."""
    with asyncio.Runner() as runner:
        admin = runner.run(_connect(server, server.database))
        runner.run(admin.execute("CREATE DATABASE canaries"))
        connection = runner.run(_connect(server, "canaries"))
        try:
            runner.run(connection.execute(";".join(statements("postgres"))))
            runner.run(connection.execute("SET statement_timeout = '200ms'; SET search_path = public"))
            yield Postgres(connection, runner.run)
        finally:
            runner.run(connection.close())
            runner.run(admin.execute("DROP DATABASE canaries"))
            runner.run(admin.close())


async def _connect(server: Server, database: str) -> Any:
    return await asyncpg.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, database=database
    )


class Mysql:
    dialect: Dialect = "mysql"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.touched: set[str] = set()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            with self._connection.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute(sql)
                rows: list[tuple[Any, ...]] = cursor.fetchmany(ROWS)
                return list(rows)
        except (pymysql.MySQLError, ValueError) as error:
            raise Failed(str(error)) from error

    def state(self) -> object:
        tables = self.run("SHOW TABLES")
        return tables, [
            self.run(f"SELECT * FROM {name} ORDER BY id") for name in ("orders", "users", "secret")
        ]


@contextmanager
def mysql_engine(server: Server) -> Iterator[Mysql]:
    """In a database of its own: the server is everybody's."""
    connection = pymysql.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, autocommit=True,
        charset="utf8mb4",
    )  # fmt: skip
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
            cursor.execute("USE shop")
            for text in statements("mysql"):
                cursor.execute(text)
            cursor.execute("SET max_statement_time = 0.2")
        yield Mysql(connection)
        with connection.cursor() as cursor:
            cursor.execute("SET max_statement_time = 0")
            cursor.execute("DROP DATABASE shop")
    finally:
        connection.close()
