"""MariaDB and MySQL over aiomysql: no multi-statements, no LOCAL INFILE, packets of bounded size.

The driver binds parameters by writing them into the text. Ours are written by `literals.py`, as digits or
hexadecimal only, so that nothing a caller sends is read by the server's parser. Results are streamed: the
driver holds one row at a time, and the server waits while nobody reads.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pymysql
from aiomysql.connection import Connection
from pymysql.constants import CLIENT, FIELD_TYPE
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from sandbox_server.access.database import failures
from sandbox_server.access.database.answers import Column, Rows, Statement
from sandbox_server.access.database.backend import CLEANUP, GRACE, Lease, Pool, run_once_alive
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.access.database.values import Collector
from sandbox_server.errors import ConfigError, InvalidRequest, LimitExceeded, PolicyDenied

SQL_MODE = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION"
"""Without ANSI_QUOTES, NO_BACKSLASH_ESCAPES and PIPES_AS_CONCAT, under which the server would read other
strings and operators than the guard did."""
HEADROOM = 64 * 1024
COM_RESET_CONNECTION = 0x1F
NOT_ROLLED_BACK = 1196
_TYPES = {
    number: name.lower()
    for name, number in vars(FIELD_TYPE).items()
    if name.isupper() and name not in ("CHAR", "INTERVAL")
} | {FIELD_TYPE.NEWDECIMAL: "decimal", FIELD_TYPE.LONG: "int", FIELD_TYPE.LONGLONG: "bigint",
     FIELD_TYPE.SHORT: "smallint", FIELD_TYPE.TINY: "tinyint", FIELD_TYPE.INT24: "mediumint",
     FIELD_TYPE.VAR_STRING: "varchar", FIELD_TYPE.STRING: "char"}  # fmt: skip
_TEXT_OR_BYTES = {
    FIELD_TYPE.BLOB: "text", FIELD_TYPE.TINY_BLOB: "text", FIELD_TYPE.MEDIUM_BLOB: "text",
    FIELD_TYPE.LONG_BLOB: "text",
}  # fmt: skip
_BINARY_CHARSET = 63


class TooLarge(Exception):
    """A packet is larger than the call may have."""


class Bounded(Connection):  # type: ignore[misc]
    """A connection that reads no packet larger than `most`, and can't be made to do more than one thing."""

    def __init__(self, *args: Any, most: int, **more: Any) -> None:
        super().__init__(*args, **more)
        self.most = most
        # aiomysql always asks for several statements in one text; a server that was not asked refuses them.
        self.client_flag &= ~(CLIENT.MULTI_STATEMENTS | CLIENT.LOCAL_FILES)

    async def _read_bytes(self, num_bytes: int) -> bytes:
        if num_bytes > self.most:
            self.abort()
            raise TooLarge
        data: bytes = await super()._read_bytes(num_bytes)
        return data

    def abort(self) -> None:
        """Without reading what the server still sends."""
        if self._writer is not None:
            self._writer.transport.abort()
        self.close()

    async def reset(self) -> None:
        """The server forgets the session: transaction, variables, temporary tables, locks, statements."""
        await self._execute_command(COM_RESET_CONNECTION, b"")
        await self._read_ok_packet()

    async def rows(self) -> AsyncIterator[tuple[Any, ...]]:
        while (row := await self._result._read_rowdata_packet_unbuffered()) is not None:
            yield row

    def columns(self) -> list[Column]:
        return [Column(field.name, _type(field)) for field in self._result.fields]

    @property
    def has_rows(self) -> bool:
        return bool(self._result.field_count)

    @property
    def drained(self) -> bool:
        return not self._result.unbuffered_active


class MariaDb:
    """One database and user."""

    def __init__(self, settings: DatabaseSettings, url: URL) -> None:
        self._settings = settings
        self._url = url
        self._pool = Pool("mysql+aiomysql://", self._open, Bounded.abort, settings.limits)

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
        driver: Bounded = lease.driver
        most = statement.offset + statement.limit + 1
        try:
            with anyio.fail_after(self._settings.limits.connect):
                await driver.query(f"SET SESSION sql_select_limit={most}")
                if statement.writes:
                    await driver.query("START TRANSACTION READ WRITE")
        except (OSError, TimeoutError, pymysql.err.InterfaceError, pymysql.err.OperationalError):
            driver.abort()
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
                except (pymysql.err.Error, LimitExceeded, InvalidRequest, PolicyDenied):
                    await self._leave(lease)
                    raise
                except BaseException:
                    await self._abandon(lease)
                    raise
        except pymysql.err.Error as error:
            code = str(error.args[0] if error.args else 0)
            message = str(error.args[1]) if len(error.args) > 1 else ""
            if code == "0":
                raise failures.unavailable(name) from None
            raise failures.explain(code, message, sql=statement.sql, name=name, seconds=seconds) from None
        except TooLarge:
            raise failures.row_too_large(_most(settings)) from None
        except (OSError, TimeoutError, RuntimeError):  # RuntimeError: the server asked for a local file
            raise failures.unavailable(name) from None

    async def _leave(self, lease: Lease) -> None:
        """Nothing of a call is left to the next: neither its transaction nor its session's state."""
        driver: Bounded = lease.driver
        if self._settings.reset == "reconnect" or driver.closed:
            return await self._abandon(lease)
        if driver._result is not None and not driver.drained:
            return await self._abandon(lease)
        with anyio.move_on_after(CLEANUP, shield=True):
            try:
                await driver.reset()
                await self._prepare(driver)
                lease.in_doubt = False
            except (pymysql.err.Error, OSError):
                return

    async def _abandon(self, lease: Lease) -> None:
        """End a connection and what runs on it: a server does not look whether its client still listens."""
        lease.in_doubt = True
        driver: Bounded = lease.driver
        driver.abort()
        with anyio.move_on_after(CLEANUP, shield=True):
            try:
                killer = await self._open()
                try:
                    await killer.query(f"KILL CONNECTION {int(driver.server_thread_id[0])}")
                finally:
                    killer.close()
            except (pymysql.err.Error, OSError):
                return  # 1094: it has ended by itself

    async def _within_time(self, lease: Lease, statement: Statement, settings: DatabaseSettings) -> Rows:
        seconds = settings.limits.time
        lease.driver.most = _most(settings)
        with anyio.move_on_after(seconds + GRACE):
            if statement.writes:
                return await _change(lease.driver, statement, settings)
            return await _select(lease.driver, statement, settings)
        await self._abandon(lease)
        raise failures.out_of_time(seconds)

    async def _open(self) -> Bounded:
        url, query, limits = self._url, dict(self._url.query), self._settings.limits
        if unknown := sorted(set(query) - {"unix_socket", "ssl_ca", "ssl"}):
            raise ConfigError(
                f"the DSN has the unknown option '{unknown[0]}'", hint="known: unix_socket, ssl, ssl_ca"
            )
        tls = bool(query.get("ssl") or query.get("ssl_ca"))
        driver = Bounded(
            host=url.host or "localhost",
            port=url.port or 3306,
            unix_socket=query.get("unix_socket"),
            user=url.username,
            password=str(url.password or ""),
            db=url.database,
            ssl=ssl.create_default_context(cafile=query.get("ssl_ca")) if tls else None,  # type: ignore[arg-type]
            charset="utf8mb4",
            client_flag=CLIENT.FOUND_ROWS,  # rows that a WHERE met, also those that had the value already
            connect_timeout=limits.connect,
            autocommit=None,
            most=_most(self._settings),
        )
        with anyio.fail_after(limits.connect):
            await driver._connect()
            await self._prepare(driver)
        return driver

    async def _prepare(self, driver: Bounded) -> None:
        limits = self._settings.limits
        maria = "mariadb" in driver.get_server_info().lower()
        clock = (
            f"max_statement_time={limits.time}" if maria else f"max_execution_time={limits.time * 1000:.0f}"
        )
        lock = max(1, round(limits.lock_time))
        await driver.query(
            f"SET NAMES utf8mb4, SESSION sql_mode='{SQL_MODE}', {clock}, lock_wait_timeout={lock}, "
            f"innodb_lock_wait_timeout={lock}, time_zone='+00:00', autocommit=1, wait_timeout=3600"
        )
        # Of the session, not of one transaction: DDL ends a transaction and would run after it.
        await driver.query("SET SESSION TRANSACTION READ ONLY")


async def _select(driver: Bounded, statement: Statement, settings: DatabaseSettings) -> Rows:
    await driver.query(statement.sql, unbuffered=True)
    if not driver.has_rows:
        raise InvalidRequest("The statement has no columns to show")
    return (await _collected(driver, statement, settings, None))[0].rows()


async def _change(driver: Bounded, statement: Statement, settings: DatabaseSettings) -> Rows:
    most = settings.limits.max_affected
    await driver.query(statement.sql, unbuffered=True)
    returning = driver.has_rows
    if returning:
        collector, affected = await _collected(driver, statement, settings, most)
    else:
        collector, affected = Collector([], statement, settings.limits), driver.affected_rows()
    if affected > most:
        note = ""
        with anyio.move_on_after(CLEANUP, shield=True):
            note = await _roll_back(driver)
        raise failures.too_many_rows(None if returning else affected, most, note)
    # A commit that was sent is not taken back, so it is waited for also after the call was cancelled.
    with anyio.move_on_after(settings.limits.time + GRACE, shield=True) as waiting:
        try:
            await driver.query("COMMIT")
        except (OSError, pymysql.err.InterfaceError, pymysql.err.OperationalError):
            raise failures.undecided(settings.name) from None
    if waiting.cancelled_caught:
        raise failures.undecided(settings.name)
    return collector.rows(affected=affected)


async def _roll_back(driver: Bounded) -> str:
    if not driver.drained:
        return ""  # the connection goes, and the transaction with it
    await driver.query("ROLLBACK")
    warnings = await driver.show_warnings()
    if any(number == NOT_ROLLED_BACK for _, number, _ in warnings):
        return "a table's engine has no transactions: they stay changed"
    return ""


async def _collected(
    driver: Bounded, statement: Statement, settings: DatabaseSettings, count: int | None
) -> tuple[Collector, int]:
    """`count`: read on for that many rows although no more are wanted."""
    collector = Collector(driver.columns(), statement, settings.limits, skip=statement.offset)
    wanted, seen = True, 0
    async for row in driver.rows():
        seen += 1
        wanted = wanted and collector.add(row)
        if not wanted and (count is None or seen > count):
            break
    return collector, seen


def _most(settings: DatabaseSettings) -> int:
    # Below 16 MiB - 1 there is one packet to a row, so a bound on packets is one on rows.
    return min(settings.limits.bytes + HEADROOM, 0xFFFFFF - 1)


def _type(field: Any) -> str:
    if field.type_code in _TEXT_OR_BYTES:
        return "blob" if field.charsetnr == _BINARY_CHARSET else "text"
    return str(_TYPES.get(field.type_code, "unknown"))
