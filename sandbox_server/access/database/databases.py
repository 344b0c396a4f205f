"""All databases of a server: judged, bound, run, and closed when the policy no longer knows them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import anyio
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sandbox_server.access.database.answers import Answer, Cell, Rows, Statement
from sandbox_server.access.database.backend import Backend
from sandbox_server.access.database.binding import bind, check_params, named_params
from sandbox_server.access.database.catalog import Catalogs, Relation, visible_part
from sandbox_server.access.database.catalog import Columns as Columns
from sandbox_server.access.database.schema import schema_text
from sandbox_server.access.database.settings import DatabaseSettings, NamedQuery
from sandbox_server.access.database.turns import Turns
from sandbox_server.errors import ConfigError, InvalidRequest, LimitExceeded, NotFound, PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.guards.sql.models import Dialect, Operation, Verdict

DEFAULT_ROWS = 100
MOST_MERGED = 16
_NONE: Mapping[str, NamedQuery] = {}


class DatabasePolicy(Protocol):
    """What the policy says. `judge` raises PolicyDenied, or gives the settings and the verdict to run by;
    `sql` may be `@name`, which `settled` resolves. Both are asked anew for each call.

    A database can be granted more than once, by several roles: one of the grants must allow all of a
    statement, and `judge` says which."""

    def databases(self, caller: Caller) -> Mapping[str, tuple[DatabaseSettings, ...]]: ...

    def judge(
        self, name: str, sql: str, operation: Operation, caller: Caller, columns: Columns | None
    ) -> tuple[DatabaseSettings, Verdict]: ...


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asks. `database` may be absent where it has only one."""

    sql: str
    operation: Operation = "select"
    database: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    offset: int = 0


class Databases:
    """Opens nothing before it is asked. `secret` gives the value of a secret by its name."""

    def __init__(self, policy: DatabasePolicy, secret: Callable[[str], str]) -> None:
        self._policy = policy
        self._secret = secret
        self._backends: dict[DatabaseSettings, Backend] = {}
        self._catalogs = Catalogs()
        self._turns = Turns()
        self._merged: dict[tuple[int, ...], tuple[tuple[Columns, ...], Columns]] = {}

    async def query(self, query: Query, *, caller: Caller) -> Answer:
        """Raises errors of ours only."""
        started = time.monotonic()
        grants = self._find(query.database, caller)
        columns = await self._columns(grants)
        settings, verdict = self._policy.judge(grants[0].name, query.sql, query.operation, caller, columns)
        named = named_query(settings, query.sql)
        if named is not None and named.rules is not None:
            settings = replace(settings, rules=named.rules)
        statement = _statement(query, settings, verdict, named)
        backend = self._backend(settings)
        async with self._turns.turn((id(backend), caller.principal), settings.limits):
            rows = await backend.run(statement, settings)
        return _answer(rows, query, statement, settings, verdict, time.monotonic() - started)

    async def columns(self, name: str | None, *, caller: Caller) -> Columns | None:
        """Those of the database, where the caller's rules depend on them. Raises DatabaseUnavailable."""
        try:
            grants = self._find(name, caller)
        except (PolicyDenied, InvalidRequest, NotFound):
            return None  # whoever decides says so in its own words
        return await self._columns(grants)

    async def schema(self, name: str, *, caller: Caller) -> str:
        """What the caller may know of a database. Raises NotFound, DatabaseUnavailable."""
        grants = self._find(name, caller)
        return "\n".join([schema_text(each, await self._visible(each)) for each in grants])

    def names(self, *, caller: Caller) -> tuple[str, ...]:
        return tuple(self._policy.databases(caller))

    async def keep(self, settings: Iterable[DatabaseSettings]) -> None:
        """After a policy was loaded anew: close what it no longer describes as it did. All of it, also if one
        can't be closed; raises what the first such has raised."""
        wanted = {_identity(each) for each in settings}
        over = [self._backends.pop(key) for key in list(self._backends) if key not in wanted]
        failed: list[Exception] = []
        for backend in over:
            try:
                await self._close(backend)
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def aclose(self) -> None:
        await self.keep(())

    async def _close(self, backend: Backend) -> None:
        self._catalogs.forget(backend)
        with anyio.CancelScope(shield=True):
            await backend.aclose()

    def _find(self, name: str | None, caller: Caller) -> tuple[DatabaseSettings, ...]:
        there = self._policy.databases(caller)
        if not there:
            raise PolicyDenied("No database is granted to you", rule="database")
        if name is None and len(there) == 1:
            return next(iter(there.values()))
        if name is None:
            raise InvalidRequest("database: required, there are several", hint=f"One of {', '.join(there)}.")
        if name not in there:
            raise NotFound("there is no such database", hint=f"There are: {', '.join(there)}")
        return there[name]

    async def _columns(self, grants: tuple[DatabaseSettings, ...]) -> Columns | None:
        """What columns there are, where a rule for columns needs to know it."""
        parts: dict[int, Columns] = {}
        for settings in grants:
            named = [query.rules for query in settings.queries.values() if query.rules is not None]
            if any(rules.columns_deny or rules.columns_allow != ("*",) for rules in (settings.rules, *named)):
                part = await self._catalogs.columns(self._backend(settings), settings)
                parts[id(part)] = part
        return self._together(tuple(parts.values()))

    def _together(self, parts: tuple[Columns, ...]) -> Columns | None:
        """The same object for the same parts: verdicts are remembered by it."""
        if len(parts) < 2:
            return parts[0] if parts and parts[0] else None
        key = tuple(map(id, parts))
        if key not in self._merged:
            if len(self._merged) >= MOST_MERGED:
                self._merged.clear()
            self._merged[key] = (parts, {name: each for part in parts for name, each in part.items()})
        return self._merged[key][1]

    async def _visible(self, settings: DatabaseSettings) -> list[Relation]:
        catalog = await self._catalogs.get(self._backend(settings), settings)
        return visible_part(catalog, settings.rules)

    def _backend(self, settings: DatabaseSettings) -> Backend:
        """Rules of two roles differ; what a connection is made with does not, so they share its pool."""
        key = _identity(settings)
        if key not in self._backends:
            self._backends[key] = open_backend(key, self._secret(settings.dsn))
        return self._backends[key]


def _identity(settings: DatabaseSettings) -> DatabaseSettings:
    """What of the settings a pool depends on."""
    rules = replace(
        settings.rules,
        mode="read",
        relations_allow=(),
        relations_deny=(),
        columns_allow=("*",),
        columns_deny=(),
        functions=frozenset(),
        require_where=True,
        returning=True,
    )
    return replace(settings, rules=rules, queries=_NONE, description="")


def open_backend(settings: DatabaseSettings, dsn: str) -> Backend:
    """Raises ConfigError, which never holds the DSN."""
    dialect = settings.rules.dialect
    url = _url(dsn, dialect, settings.name)
    if dialect == "sqlite":
        from sandbox_server.access.database.sqlite import Sqlite

        return Sqlite(settings, url)
    driver, extra = {"postgres": ("asyncpg", "postgres"), "mysql": ("aiomysql", "mysql")}[dialect]
    if importlib.util.find_spec(driver) is None:
        raise ConfigError(
            f"database '{settings.name}' needs the driver {driver}, which is not installed",
            hint=f"pip install 'mcp-sandbox-server[{extra}]'",
        )
    if dialect == "postgres":
        from sandbox_server.access.database.postgres import Postgres

        return Postgres(settings, url)
    from sandbox_server.access.database.mariadb import MariaDb

    return MariaDb(settings, url)


_SCHEMES: dict[str, Dialect] = {
    "sqlite": "sqlite", "postgres": "postgres", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"
}  # fmt: skip


def _url(dsn: str, dialect: Dialect, name: str) -> URL:
    try:
        url = make_url(dsn.strip())
    except (ArgumentError, ValueError):
        url = None
    if url is None or _SCHEMES.get(url.drivername) != dialect:
        raise ConfigError(
            f"the DSN of database '{name}' is not one of {dialect}",
            hint="postgresql://user:password@host/database, mysql://…, sqlite:////absolute/path.db",
        )
    return url


def named_query(settings: DatabaseSettings, sql: str) -> NamedQuery | None:
    """The query that `@name` means; None for SQL. Raises NotFound."""
    if not sql.startswith("@"):
        return None
    query = settings.queries.get(sql[1:].strip())
    if query is None:
        there = ", ".join(f"@{name}" for name in settings.queries) or "none"
        raise NotFound("there is no such named query", hint=f"There are: {there}")
    return query


def settled(settings: DatabaseSettings, sql: str) -> tuple[str, DatabaseSettings]:
    """The SQL to judge, and the settings whose rules it is judged by: those of `@name` if it has its own."""
    query = named_query(settings, sql)
    if query is None:
        return sql, settings
    return query.sql, settings if query.rules is None else replace(settings, rules=query.rules)


def _statement(
    query: Query, settings: DatabaseSettings, verdict: Verdict, named: NamedQuery | None
) -> Statement:
    """Raises PolicyDenied, InvalidRequest, LimitExceeded."""
    if not verdict.allowed or not verdict.sql:
        raise PolicyDenied(verdict.message, rule=verdict.rule or verdict.reason, hint=verdict.hint)
    writes = query.operation != "select"
    if verdict.operation != query.operation or (writes and settings.reads_only):
        raise PolicyDenied("The statement is not what `operation` says", rule="sql.operation")
    if named is not None and named.operation not in (None, query.operation):
        raise InvalidRequest(f"operation: this named query is a {named.operation}")
    limits = settings.limits
    limit = min(DEFAULT_ROWS, limits.rows) if query.limit is None else query.limit
    if not 1 <= limit <= limits.rows:
        raise LimitExceeded(f"limit: must be between 1 and {limits.rows:,}")
    if not 0 <= query.offset <= limits.offset:
        raise LimitExceeded(
            f"offset: must be between 0 and {limits.offset:,}", hint="Go on by key: WHERE id > the last one."
        )
    params = named_params(named, query.params) if named is not None else check_params(query.params)
    dialect = settings.rules.dialect
    template, values = bind(verdict.sql, dialect, params)
    sql = template.sql
    if dialect == "mysql" and values:
        from sandbox_server.access.database.literals import written

        sql, values = written(template.pieces, values), ()
    elif dialect == "sqlite":
        values = tuple(_plain(value) for value in values)
    return Statement(sql, values, writes=writes, limit=limit, offset=query.offset)


def _plain(value: Any) -> Any:
    """SQLite has numbers, text and bytes; dates are text there."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _answer(
    rows: Rows,
    query: Query,
    statement: Statement,
    settings: DatabaseSettings,
    verdict: Verdict,
    elapsed: float,
) -> Answer:
    cut = tuple(
        (number, index)
        for number, row in enumerate(rows.rows)
        for index, value in enumerate(row)
        if isinstance(value, Cell)
    )
    plain = tuple(tuple(each.kept if isinstance(each, Cell) else each for each in row) for row in rows.rows)
    pages = rows.more and not statement.writes
    return Answer(
        database=settings.name,
        operation=query.operation,
        columns=rows.columns,
        rows=plain,
        truncated=rows.more,
        next_offset=query.offset + len(plain) if pages else None,
        affected=rows.affected,
        elapsed=elapsed,
        rule=verdict.rule,
        cut=cut,
    )
