"""SQLite through aiosqlite: a new connection for each call, which can do no more than the rules allow.

The authorizer is asked by SQLite itself while it compiles a statement, for every relation, column and
function that the statement would touch, also behind views. So it needs no parser to be right. It denies
what it does not know. Reading a view takes the right to read what is behind it.
"""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
import anyio
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from sandbox_server.access.database import failures
from sandbox_server.access.database.answers import Column, Rows, Statement
from sandbox_server.access.database.backend import CLEANUP
from sandbox_server.access.database.names import sees_column, sees_relation
from sandbox_server.access.database.settings import DatabaseLimits, DatabaseSettings
from sandbox_server.access.database.values import Collector
from sandbox_server.errors import Busy, ConfigError, InvalidRequest, LimitExceeded
from sandbox_server.guards.sql import safe_builtin
from sandbox_server.guards.sql.functions import PRESET
from sandbox_server.guards.sql.models import SqlRules

OPERATORS = frozenset({"like", "glob", "->", "->>"})
"""What is a function to SQLite and syntax to everybody else."""
VALUE = 16 * 1024**2
"""The least that a value inside a statement may be; what comes out is cut to much less."""
STEPS = 2000
"""Virtual machine steps between two looks at the clock: some ten microseconds."""
_FUNCTION, _RECURSIVE = 31, 33
MODULES = ("json_each", "json_tree")
"""Functions that give a table. A connection's first use of one declares that table, which looks to the
authorizer like making one; so it comes before."""


class Sqlite:
    """One file, which the operator named by its absolute path."""

    def __init__(self, settings: DatabaseSettings, url: URL) -> None:
        self._path = _path(url)
        self._places = anyio.Semaphore(settings.limits.connections)
        self._wait = settings.limits.wait
        self._engine = create_async_engine(
            "sqlite+aiosqlite://", async_creator=self._for_schema, poolclass=NullPool
        )

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    async def aclose(self) -> None:
        await self._engine.dispose()

    async def run(self, statement: Statement, settings: DatabaseSettings) -> Rows:
        """Raises errors of ours only."""
        with anyio.move_on_after(self._wait) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise Busy("All connections to this database are in use", retry_after=self._wait)
        try:
            return await self._run(statement, settings)
        except (sqlite3.Warning, sqlite3.Error) as error:
            if "one statement at a time" in str(error):
                raise InvalidRequest("The text is more than one statement", hint="Send one.") from None
            raise self._explained(error, statement, settings) from None
        finally:
            self._places.release()

    async def _run(self, statement: Statement, settings: DatabaseSettings) -> Rows:
        stop = Stop(settings.limits.time)
        opening = _Opening(lambda: self._open(statement, settings, stop))
        connection = aiosqlite.Connection(opening, iter_chunk_size=64)
        with anyio.CancelScope(shield=True):  # a local file; cancelled here, aiosqlite would lose the handle
            await connection
        try:
            opening.check()
            if statement.writes:
                await connection.execute("BEGIN IMMEDIATE")
            for module in MODULES:
                if module in statement.sql.lower():
                    await connection.execute(f"SELECT 1 FROM {module}('[]') LIMIT 0")  # noqa: S608
            names = await connection.execute_fetchall("SELECT lower(name) FROM sqlite_master")
            real = frozenset(name for (name,) in names)
            await connection.set_authorizer(authorizer(settings.rules, real, writes=statement.writes))
            if statement.writes:
                return await _change(connection, statement, settings)
            cursor = await connection.execute(statement.sql, statement.params)
            return (await _collected(cursor, statement, settings)).rows()
        except sqlite3.Error:
            if stop.late:
                raise failures.out_of_time(settings.limits.time) from None
            raise
        finally:
            stop.now()
            with anyio.move_on_after(CLEANUP, shield=True):
                await connection.close()

    def _open(self, statement: Statement, settings: DatabaseSettings, stop: Stop) -> sqlite3.Connection:
        """In the connection's own thread."""
        mode = "rw" if statement.writes else "ro"
        connection = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            timeout=settings.limits.lock_time,
            isolation_level=None,
            cached_statements=0,
        )
        try:
            _confine(connection, settings.limits, writes=statement.writes)
            connection.set_progress_handler(stop.asked, STEPS)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _for_schema(self) -> aiosqlite.Connection:
        def open_it() -> sqlite3.Connection:
            connection = sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)
            _confine(connection, DatabaseLimits(), writes=False)
            return connection

        return await aiosqlite.Connection(open_it, iter_chunk_size=64)

    def _explained(self, error: Exception, statement: Statement, settings: DatabaseSettings) -> Exception:
        name: str = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
        message = str(error)
        if "too big" in message:
            return LimitExceeded("A value is larger than the server takes", hint="Select less of it: substr.")
        if "not authorized" in message or "prohibited" in message:
            name = "SQLITE_AUTH"
        if name.startswith("SQLITE_CANTOPEN"):
            return failures.unavailable(settings.name, "can't be opened")
        code = next((each for each in _KNOWN if name.startswith(each)), name)
        return failures.explain(
            code, message, sql=statement.sql, name=settings.name, seconds=settings.limits.time
        )


_KNOWN = ("SQLITE_CONSTRAINT", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED")


class _Opening:
    """Opens in aiosqlite's thread. What fails is raised by `check`: aiosqlite leaves a thread behind whose
    connection could not be opened, and has then nothing to wait for."""

    def __init__(self, opener: Callable[[], sqlite3.Connection]) -> None:
        self._opener = opener
        self._failure: Exception | None = None

    def __call__(self) -> sqlite3.Connection:
        try:
            return self._opener()
        except Exception as error:
            self._failure = error
            return sqlite3.connect(":memory:")

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure


class Stop:
    """Asked by SQLite from the connection's thread every few steps whether to go on."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._asked_to = threading.Event()
        self.late = False

    def now(self) -> None:
        self._asked_to.set()

    def asked(self) -> int:
        self.late = self.late or time.monotonic() > self._deadline
        return int(self.late or self._asked_to.is_set())


def authorizer(rules: SqlRules, real: frozenset[str], *, writes: bool) -> Callable[..., int]:
    """What SQLite asks for each thing that a statement would do. It denies what is not listed here.

    `real` are the names of what the file holds: a name that is none of them is one of the statement's own.
    """
    functions = {name.lower() for name in rules.functions} | OPERATORS
    if PRESET in functions:
        functions |= safe_builtin("sqlite")
    changes = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_DELETE} if writes else set()

    def allowed(action: int, first: str | None, second: str | None, schema: str | None) -> bool:
        if action == sqlite3.SQLITE_SELECT:
            return True
        if action == _FUNCTION:
            return (second or "").lower() in functions
        if action == _RECURSIVE:
            return True  # its time, memory and rows are bounded
        own = (first or "").lower()
        if action == sqlite3.SQLITE_READ and own not in real:
            # A WITH of which only the rows count, or a function that gives a table, such as json_each.
            return own in functions or not (second or schema)
        if schema not in (None, "main") or not first or not sees_relation(rules, "main", first):
            return False
        if action == sqlite3.SQLITE_READ:
            # Without a column: a table of which only the rows count, as in count(*).
            return not second or sees_column(rules, "main", first, second)
        if action == sqlite3.SQLITE_UPDATE and writes:
            return bool(second) and sees_column(rules, "main", first, str(second))
        return action in changes

    def decide(action: int, first: str | None, second: str | None, schema: str | None, _: str | None) -> int:
        try:
            return sqlite3.SQLITE_OK if allowed(action, first, second, schema) else sqlite3.SQLITE_DENY
        except Exception:
            return sqlite3.SQLITE_DENY  # an error while deciding is a denial

    return decide


def _confine(connection: sqlite3.Connection, limits: DatabaseLimits, *, writes: bool) -> None:
    if hasattr(connection, "enable_load_extension"):  # not in every build of Python
        connection.enable_load_extension(False)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "cache_size=-8192"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    for limit, value in (
        (sqlite3.SQLITE_LIMIT_LENGTH, max(VALUE, limits.bytes)),
        (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 1024**2),
        (sqlite3.SQLITE_LIMIT_COLUMN, 500),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (sqlite3.SQLITE_LIMIT_VDBE_OP, 250_000),
        (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 100),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 10),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
    ):
        connection.setlimit(limit, value)


async def _collected(cursor: aiosqlite.Cursor, statement: Statement, settings: DatabaseSettings) -> Collector:
    if cursor.description is None:
        raise InvalidRequest("The statement has no columns to show")
    # SQLite's values have types, its columns have not.
    columns = [Column(each[0], "any") for each in cursor.description]
    collector = Collector(columns, statement, settings.limits, skip=statement.offset)
    batch = 16 if len(columns) < 50 else 1
    while rows := await cursor.fetchmany(batch):
        for row in rows:
            if not collector.add(row):
                return collector
        batch = min(256, batch * 2) if max(map(_weight, rows)) < 4096 else 1
    return collector


def _weight(row: Any) -> int:
    return sum(len(each) for each in row if isinstance(each, str | bytes))


async def _change(connection: aiosqlite.Connection, statement: Statement, settings: DatabaseSettings) -> Rows:
    most = settings.limits.max_affected
    cursor = await connection.execute(statement.sql, statement.params)
    if cursor.description is not None:  # RETURNING: SQLite has changed all rows before it gives the first
        collector = await _collected(cursor, statement, settings)
        while await cursor.fetchmany(256):
            continue
    else:
        collector = Collector([], statement, settings.limits)
    affected = cursor.rowcount
    if affected < 0:
        raise InvalidRequest("The statement is no INSERT, UPDATE or DELETE")
    if affected > most:
        raise failures.too_many_rows(affected, most)  # closing rolls back
    with anyio.CancelScope(shield=True):  # a commit that was sent is not taken back
        await connection.set_authorizer(None)
        await connection.execute("COMMIT")
    return collector.rows(affected=affected)


def _path(url: URL) -> Path:
    """Raises ConfigError for what is not a regular file under an absolute path."""
    path = Path(url.database or "")
    if not path.is_absolute() or url.query:
        raise ConfigError(
            "a SQLite database is named by an absolute path", hint="sqlite:////srv/data/shop.db"
        )
    try:
        mode = path.stat().st_mode
    except OSError:
        raise ConfigError("the SQLite file is not there or can't be read", hint="make it first") from None
    if not stat.S_ISREG(mode):
        raise ConfigError("the SQLite path is not a regular file")
    return path
