"""PostgreSQL over asyncpg: extended protocol, read-only transactions that are always rolled back.

The statement is prepared as it stands, which refuses more than one and tells its columns. What is executed
is a SELECT around it, which lets the server skip and count rows and cut values, so that neither 10^7 rows
nor a value of a gigabyte ever reach this process.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from sandbox_server.access.database import failures
from sandbox_server.access.database.answers import Cell, Column, Rows, Statement
from sandbox_server.access.database.backend import CLEANUP, GRACE, Lease, Pool, run_once_alive
from sandbox_server.access.database.binding import convert
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.access.database.values import Collector, cell_size, from_json
from sandbox_server.errors import ConfigError, InvalidRequest, LimitExceeded, PolicyDenied

BATCH = 8 * 1024**2
"""Characters that one batch of rows may have at most."""
_RAW = {"bool", "int2", "int4", "int8", "float4", "float8", "numeric", "uuid", "oid"}
_TIMES = {"date", "timestamp", "timestamptz"}
_TEXTS = {"text", "varchar", "bpchar", "name"}
_PARAMS = {
    "int2": "int", "int4": "int", "int8": "int", "float4": "float", "float8": "float", "numeric": "decimal",
    "bool": "bool", "date": "date", "timestamp": "timestamp", "timestamptz": "timestamp", "uuid": "uuid",
}  # fmt: skip

UNNAMED = ""
"""A prepared statement without a name is replaced by the next; one with a name is closed by a round trip."""
_DEAD = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # the server's last words were read, its end was not yet
)
RESET = (
    "ROLLBACK; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
)
"""ROLLBACK and what DISCARD ALL stands for, which itself can't be sent together with another statement."""


class Postgres:
    """One database and role."""

    def __init__(self, settings: DatabaseSettings, url: URL) -> None:
        self._settings = settings
        self._url = url
        self._pool = Pool(
            "postgresql+asyncpg://?prepared_statement_cache_size=0", self._open, _cut, settings.limits
        )

    @property
    def engine(self) -> AsyncEngine:
        return self._pool.engine

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def run(self, statement: Statement, settings: DatabaseSettings) -> Rows:
        """Raises errors of ours only. A connection that turns out to be dead is replaced once."""
        return await run_once_alive(
            self._pool,
            lambda: self._lease(statement, settings),
            lambda lease: self._begin(lease, statement),
            lambda lease: self._within_time(lease, statement, settings),
            settings.name,
        )

    async def _begin(self, lease: Lease, statement: Statement) -> bool:
        """False if the connection is dead, or its server silent."""
        try:
            with anyio.fail_after(self._settings.limits.connect):
                await lease.driver.execute("BEGIN READ WRITE" if statement.writes else "BEGIN READ ONLY")
        except _DEAD:
            _cut(lease.driver)
            return False
        return True

    @asynccontextmanager
    async def _lease(self, statement: Statement, settings: DatabaseSettings) -> AsyncIterator[Lease]:
        name, seconds = settings.name, settings.limits.time
        try:
            async with self._pool.lease() as lease:
                try:
                    yield lease
                    await self._leave(lease)
                except asyncpg.PostgresError:
                    await self._leave(lease)
                    raise
                except (LimitExceeded, InvalidRequest, PolicyDenied):
                    await self._leave(lease)
                    raise
                except BaseException:
                    await _abandon(lease)
                    raise
        except asyncpg.PostgresError as error:
            code = error.sqlstate or "XX000"
            raise failures.explain(
                code, str(error.args[0]), sql=statement.sql, name=name, seconds=seconds
            ) from None
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError):
            raise failures.unavailable(name) from None

    async def _leave(self, lease: Lease) -> None:
        """Nothing of a call is left to the next: neither its transaction nor its session's state."""
        if lease.driver.is_closed():
            return
        if self._settings.reset == "reconnect":
            return await _abandon(lease)
        with anyio.move_on_after(CLEANUP, shield=True):
            try:
                await lease.driver.execute(RESET)
                lease.in_doubt = False
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                return

    async def _within_time(self, lease: Lease, statement: Statement, settings: DatabaseSettings) -> Rows:
        seconds = settings.limits.time
        with anyio.move_on_after(seconds + GRACE):
            try:
                if statement.writes:
                    return await _change(lease.driver, statement, settings)
                return await _select(lease.driver, statement, settings)
            except asyncpg.DataError as error:
                raise _data_error(error) from None
        await _abandon(lease)
        raise failures.out_of_time(seconds)

    async def _open(self) -> asyncpg.Connection:
        limits, rules = self._settings.limits, self._settings.rules
        url, schema = self._url, rules.default_schema.replace('"', '""')
        path = f'pg_catalog, "{schema}", pg_temp' if schema else "pg_catalog, pg_temp"
        query = dict(url.query)
        return await asyncpg.connect(
            host=query.get("host") or url.host or "localhost",
            port=url.port or 5432,
            user=url.username,
            password=str(url.password or ""),
            database=url.database,
            ssl=_tls(query),
            timeout=limits.connect,
            statement_cache_size=0,  # DISCARD ALL would pull prepared statements from under it
            server_settings={
                "application_name": "sandbox-server",
                "search_path": path,
                "default_transaction_read_only": "on",
                "statement_timeout": str(int(limits.time * 1000)),
                "lock_timeout": str(int(limits.lock_time * 1000)),
                "idle_in_transaction_session_timeout": str(int((limits.time + 10) * 1000)),
                "standard_conforming_strings": "on",  # as the guard's parser reads strings
                "client_min_messages": "error",  # notices of a function would be read and dropped
                "row_security": "on",
                "datestyle": "ISO, YMD",
                "intervalstyle": "iso_8601",
                "timezone": "UTC",
                "jit": "off",
            },
        )


def _tls(query: dict[str, Any]) -> Any:
    known = {"host", "sslmode", "sslrootcert"}
    if unknown := sorted(set(query) - known):
        raise ConfigError(f"the DSN has the unknown option '{unknown[0]}'", hint=f"known: {sorted(known)}")
    mode, ca = query.get("sslmode", "prefer"), query.get("sslrootcert")
    if mode in ("verify-ca", "verify-full") or ca:
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = mode != "verify-ca"
        return context
    return mode


def _cut(driver: asyncpg.Connection) -> None:
    driver.terminate()


async def _abandon(lease: Lease) -> None:
    """End a connection. Closing waits until the request to cancel what runs on it has reached the server."""
    lease.in_doubt = True
    with anyio.move_on_after(CLEANUP, shield=True):
        try:
            await lease.driver.close(timeout=CLEANUP)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            lease.driver.terminate()


async def _select(driver: asyncpg.Connection, statement: Statement, settings: DatabaseSettings) -> Rows:
    plain = await driver.prepare(statement.sql, name=UNNAMED)
    columns = plain.get_attributes()
    if not columns:
        raise InvalidRequest("The statement has no columns to show")
    params = _coerced(statement.params, plain.get_parameters())
    if statement.sql[:8].upper() == "EXPLAIN ":  # can't be selected from, and is text of the server's own
        collector = _collector(columns, statement, settings)
        await _collect(await plain.cursor(*params), collector, columns, [None] * len(columns), 100)
        return collector.rows()
    cell = cell_size(settings.limits, len(columns))
    select, sizes = _around(columns, cell)
    aliases = ", ".join(f"c{index}" for index in range(len(columns)))
    fenced = (
        f"SELECT * FROM ({statement.sql}) AS i ({aliases}) "
        f"OFFSET {int(statement.offset)} LIMIT {int(statement.limit) + 1}"
    )
    prepared = await driver.prepare(f"SELECT {select} FROM ({fenced}) AS o", name=UNNAMED)
    collector, batch = _collector(columns, statement, settings), _batch(columns, sizes, cell)
    if statement.limit < batch:  # then they fit into one answer, which saves two round trips
        _add(await prepared.fetch(*params), collector, columns, sizes)
    else:
        await _collect(await prepared.cursor(*params), collector, columns, sizes, batch)
    return collector.rows()


async def _change(driver: asyncpg.Connection, statement: Statement, settings: DatabaseSettings) -> Rows:
    limits = settings.limits
    plain = await driver.prepare(statement.sql, name=UNNAMED)
    columns = plain.get_attributes()
    params = _coerced(statement.params, plain.get_parameters())
    collector = _collector(columns, statement, settings)
    if columns:
        cell = cell_size(limits, len(columns))
        select, sizes = _around(columns, cell)
        aliases = ", ".join(f"c{index}" for index in range(len(columns)))
        cursor = await (
            await driver.prepare(
                f"WITH o ({aliases}) AS ({statement.sql}) SELECT {select} FROM o", name=UNNAMED
            )
        ).cursor(*params)
        affected = await _count(cursor, collector, columns, sizes, limits.max_affected)
    else:
        await plain.fetch(*params)
        word, _, number = plain.get_statusmsg().rpartition(" ")
        if word.split(" ")[0] not in ("INSERT", "UPDATE", "DELETE") or not number.isdigit():
            raise InvalidRequest("The statement is no INSERT, UPDATE or DELETE")
        affected = int(number)
    if affected > limits.max_affected:
        raise failures.too_many_rows(None if columns else affected, limits.max_affected)
    # A commit that was sent is not taken back, so it is waited for also after the call was cancelled.
    with anyio.move_on_after(limits.time + GRACE, shield=True) as waiting:
        try:
            await driver.execute("COMMIT")
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError):
            raise failures.undecided(settings.name) from None
    if waiting.cancelled_caught:
        raise failures.undecided(settings.name)
    return collector.rows(affected=affected)


def _collector(columns: Sequence[Any], statement: Statement, settings: DatabaseSettings) -> Collector:
    # An array of a domain, say, is called by its element's name: the server's words are good enough.
    named = [Column(each.name, each.type.name) for each in columns]
    return Collector(named, statement, settings.limits)


def _around(columns: Sequence[Any], cell: int) -> tuple[str, list[int | None]]:
    """The SELECT list that bounds each value, and where in the row the size of a cut one is."""
    parts: list[str] = []
    sizes: list[int | None] = []
    extra: list[str] = []
    for index, column in enumerate(columns):
        name, kind, it = column.type.name, column.type.kind, f"o.c{index}"
        if kind == "scalar" and name in _RAW:
            parts.append(it)
            sizes.append(None)
            continue
        if kind == "scalar" and name in _TIMES:
            parts.append(f"pg_catalog.to_jsonb({it}) #>> '{{}}'")
            sizes.append(None)
            continue
        if kind == "scalar" and name == "bytea":
            parts.append(f"pg_catalog.substring({it}, 1, {cell})")
        else:
            it = it if name in _TEXTS and kind == "scalar" else _as_text(it, name, kind)
            parts.append(
                f"CASE WHEN pg_catalog.octet_length({it}) > {cell} THEN pg_catalog.left({it}, {cell})"
                f" ELSE {it} END"
            )
        sizes.append(len(columns) + len(extra))
        extra.append(
            f"CASE WHEN pg_catalog.octet_length({it}) > {cell} THEN pg_catalog.octet_length({it}) END"
        )
    return ", ".join(parts + extra), sizes


def _as_text(it: str, name: str, kind: str) -> str:
    return f"pg_catalog.to_jsonb({it})::text" if _is_json(name, kind) and name != "json" else f"{it}::text"


def _is_json(name: str, kind: str) -> bool:
    return (
        name in ("json", "jsonb") or name == "record" or kind in ("array", "composite") or name.endswith("[]")
    )


def _batch(columns: Sequence[Any], sizes: Sequence[int | None], cell: int) -> int:
    row = sum(64 if size is None else cell for size in sizes)
    return max(1, min(500, BATCH // max(1, row)))


async def _collect(
    cursor: Any, collector: Collector, columns: Sequence[Any], sizes: Sequence[int | None], batch: int
) -> None:
    while records := await cursor.fetch(batch):
        if not _add(records, collector, columns, sizes) or len(records) < batch:
            return


def _add(
    records: Sequence[Any], collector: Collector, columns: Sequence[Any], sizes: Sequence[int | None]
) -> bool:
    """Whether more are wanted."""
    return all(collector.add(_row(record, columns, sizes)) for record in records)


async def _count(
    cursor: Any, collector: Collector, columns: Sequence[Any], sizes: Sequence[int | None], most: int
) -> int:
    affected, wanted = 0, True
    batch = _batch(columns, sizes, collector.cell)
    while affected <= most and (records := await cursor.fetch(batch)):
        affected += len(records)
        for record in records:
            wanted = wanted and collector.add(_row(record, columns, sizes))
    return affected


def _row(record: Any, columns: Sequence[Any], sizes: Sequence[int | None]) -> list[Any]:
    row: list[Any] = []
    for index, (column, at) in enumerate(zip(columns, sizes, strict=True)):
        value = record[index]
        if at is not None and record[at] is not None:
            value = Cell(value, record[at])
        elif isinstance(value, str) and _is_json(column.type.name, column.type.kind):
            value = from_json(value)
        row.append(value)
    return row


def _coerced(values: Sequence[Any], types: Sequence[Any]) -> list[Any]:
    """Parameters as the types that the server found for them. Raises InvalidRequest."""
    coerced = []
    for number, (value, kind) in enumerate(zip(values, types, strict=True), 1):
        if value is not None and kind.kind == "scalar" and kind.name in _PARAMS:
            value = convert(value, _PARAMS[kind.name], f"params: number {number} ({kind.name})")
            if isinstance(value, datetime):
                value = _zoned(value, kind.name == "timestamptz")
        elif value is not None and not isinstance(value, bytes):
            value = _said(value)
        coerced.append(value)
    return coerced


def _zoned(value: datetime, zone: bool) -> datetime:
    """What has no zone is in UTC, as the session is."""
    if zone:
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _data_error(error: Any) -> Any:
    """asyncpg's own complaint about a parameter has no SQLSTATE of the server's behind it."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate and error.as_dict().get("severity"):
        return error
    return InvalidRequest("A parameter does not fit the type that the query needs")
