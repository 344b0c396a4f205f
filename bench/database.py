"""What judging and confining a statement costs: `Databases` beside the bare driver, in turns."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from bench.context import Bench
from bench.report import Row
from bench.stats import Samples
from sandbox_server.access.database.databases import Columns, Databases, Query
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.execution.api import Caller
from sandbox_server.guards.sql import SqlJudge, SqlRules, Verdict, judge
from sandbox_server.guards.sql.models import Dialect, Operation

TARGET = 0.001
LINES = """
WITH recent AS (
  SELECT o.customer_id,
         o.total,
         o.placed,
         ROW_NUMBER() OVER (PARTITION BY o.customer_id ORDER BY o.placed DESC) AS position
  FROM orders AS o
  WHERE o.placed >= '2026-01-01'
    AND o.total > 0
)
SELECT c.name,
       COUNT(*) AS orders,
       SUM(r.total) AS total,
       AVG(r.total) AS average,
       MAX(r.placed) AS last
FROM customers AS c
JOIN recent AS r ON r.customer_id = c.id
WHERE r.position <= 10
GROUP BY c.name
HAVING SUM(r.total) > 10
ORDER BY total DESC
LIMIT 20
"""
TABLES = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR(50));
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, total NUMERIC(10, 2), placed DATE);
INSERT INTO customers SELECT {n}, 'name ' || {n} FROM {series100};
INSERT INTO orders SELECT {n}, {n} % 100 + 1, {n} % 70 + 0.5, '2026-01-02' FROM {series1000};
"""
ME = Caller("bench")


class Judged:
    """The guard by one set of rules, with its cache."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._judge = SqlJudge(settings.rules)

    def databases(self, caller: Caller) -> Mapping[str, tuple[DatabaseSettings, ...]]:
        return {self._settings.name: (self._settings,)}

    def judge(
        self, name: str, sql: str, operation: Operation, caller: Caller, columns: Columns | None
    ) -> tuple[DatabaseSettings, Verdict]:
        return self._settings, self._judge(sql, operation=operation)


def rules_of(dialect: Dialect) -> SqlRules:
    schema = "main" if dialect == "sqlite" else "public"
    return SqlRules(
        dialect,
        relations_allow=(f"{schema}.customers", f"{schema}.orders"),
        functions=frozenset({"safe_builtin"}),
        default_schema=schema,
    )


async def measure(bench: Bench) -> None:
    bench.say("SQL: the guard, and its databases beside the bare drivers")
    times = bench.times(400, 40)
    bench.rows += [await _guard(bench.times(100, 10)), await _cached(times)]
    bench.rows += await _beside("SQLite", _sqlite(bench.directory / "bench.db"), times)
    if Path("/usr/lib/postgresql").is_dir():
        bench.rows += await _beside("PostgreSQL", _postgres(), times)


async def _guard(times: int) -> Row:
    samples, rules = Samples(), rules_of("postgres")

    async def once() -> None:
        assert judge(LINES, rules, operation="select").allowed

    for _ in range(times):
        await samples.time(once)
    return Row.of("guard: 20 lines of SQL, never seen", samples)


async def _cached(times: int) -> Row:
    samples, known = Samples(), SqlJudge(rules_of("postgres"))

    async def once() -> None:
        assert known(LINES, operation="select").allowed

    for _ in range(times):
        await samples.time(once)
    return Row.of(
        "guard: the same, seen before", samples,
        target="guards <= 1 ms p50", ratio=samples.p50 / TARGET, bound=1.0,
    )  # fmt: skip


Opened = tuple[DatabaseSettings, str, Callable[[], Awaitable[None]]]


async def _beside(name: str, opening: AsyncIterator[Opened], times: int) -> list[Row]:
    bare, ours = Samples(), Samples()
    async with asynccontextmanager(lambda: opening)() as (settings, dsn, plain):
        databases = Databases(Judged(settings), {"bench": dsn}.__getitem__)

        async def judged() -> None:
            assert len((await databases.query(Query(LINES), caller=ME)).rows) == 20

        try:
            for _ in range(times // 10):
                await plain()
                await judged()
            for _ in range(times):
                await bare.time(plain)
                await ours.time(judged)
        finally:
            await databases.aclose()
    extra = 1000 * (ours.p50 - bare.p50)
    return [
        Row.of(f"{name}: 20 lines, bare driver", bare),
        Row.of(
            f"{name}: the same, judged, confined and reset",
            ours,
            target="guards <= 1 ms p50",
            ratio=extra / (1000 * TARGET),
            bound=1.0,
            note=f"{extra:+.2f} ms",
        ),
    ]


async def _sqlite(path: Path) -> AsyncIterator[Opened]:
    with sqlite3.connect(path) as connection:
        numbers = (
            "(WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < {}) SELECT n FROM g)"
        )
        connection.executescript(
            TABLES.format(n="n", series100=numbers.format(100), series1000=numbers.format(1000))
        )
    connection.close()

    def once() -> None:
        opened = sqlite3.connect(path)
        assert len(opened.execute(LINES).fetchall()) == 20
        opened.close()

    async def plain() -> None:
        await anyio.to_thread.run_sync(once)

    yield DatabaseSettings("bench", "bench", rules_of("sqlite")), f"sqlite:///{path}", plain


async def _postgres() -> AsyncIterator[Opened]:
    import asyncpg

    from tests.databases import postgres_server

    with postgres_server() as server:
        connection = await asyncpg.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
            statement_cache_size=0,  # a caller's next statement is another one
        )
        series = "generate_series(1, {}) AS n"
        text = TABLES.format(n="n", series100=series.format(100), series1000=series.format(1000))
        await connection.execute(text.replace("'2026-01-02'", "DATE '2026-01-02'"))

        async def plain() -> None:
            async with connection.transaction(readonly=True):
                assert len(await connection.fetch(LINES)) == 20

        dsn = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/postgres"
        yield DatabaseSettings("bench", "bench", rules_of("postgres")), dsn, plain
        await connection.close()
