"""Each engine's own limits, with a guard that lets everything pass and a login that may do everything."""

from __future__ import annotations

import pytest

from sandbox_server.access.database.databases import Query
from sandbox_server.errors import SandboxServerError
from tests.access.database.conftest import Open
from tests.access.database.support import ME, Place

WRITES = [
    "DELETE FROM orders",
    "UPDATE secret SET token = 'changed'",
    "INSERT INTO secret VALUES (2, 'new')",
    "DROP TABLE orders",
    "CREATE TABLE loot (id INTEGER)",
    "ALTER TABLE orders ADD COLUMN x INTEGER",
    "SELECT 1; DROP TABLE orders",
    "SELECT 1; COMMIT; DELETE FROM orders",
    "COMMIT; DROP TABLE orders; --",
    "SELECT 1) AS x; DROP TABLE orders; --",
    "SELECT 1 /* */; /* */ DELETE FROM orders",
    "COMMIT",
    "ROLLBACK",
    "BEGIN",
    "SAVEPOINT a",
]
ONE_DIALECT = {
    "sqlite": [
        "REPLACE INTO secret VALUES (1, 'changed')",
        "WITH x AS (SELECT 1) DELETE FROM orders",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM INTO '/tmp/stolen.db'",
        "VACUUM",
        "PRAGMA query_only=OFF",
        "PRAGMA query_only(0)",
        "PRAGMA writable_schema=ON",
        "PRAGMA journal_mode=DELETE",
        "PRAGMA database_list",
        "REINDEX",
        "ANALYZE",
    ],
    "postgres": [
        "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
        "SELECT * INTO loot FROM orders",
        "CREATE TEMP TABLE loot AS SELECT 1",
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "COPY secret TO '/tmp/stolen'",
        "COPY secret TO STDOUT",
        "COPY secret FROM PROGRAM 'echo 7'",
        "COPY (SELECT 1) TO PROGRAM 'touch /tmp/stolen'",
        "DO $$ BEGIN DELETE FROM orders; END $$",
        "DO $$ BEGIN COMMIT; DELETE FROM orders; END $$",
        "PREPARE x AS DELETE FROM orders",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "TRUNCATE orders",
        "LOCK TABLE orders",
        "SELECT id FROM orders FOR UPDATE",
        "SELECT nextval('counter')",
        "VACUUM",
        "REFRESH MATERIALIZED VIEW x",
        "CREATE EXTENSION dblink",
        "LOAD 'auto_explain'",
        "LISTEN c",
        "NOTIFY c",
        "EXPLAIN ANALYZE DELETE FROM orders",
        "EXPLAIN (ANALYZE) UPDATE secret SET token = 'changed'",
        "SHOW data_directory",
        "RESET ALL",
        "SET ROLE postgres",
        "CALL nothing()",
    ],
    "mysql": [
        "SELECT id FROM orders FOR UPDATE; DELETE FROM orders",
        "REPLACE INTO secret VALUES (1, 'changed')",
        "TRUNCATE orders",
        "DO RELEASE_ALL_LOCKS()",
        "SET @x = 1",
        "SET SESSION sql_log_bin = 0",
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE secret",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE secret",
        "SET STATEMENT max_statement_time=0 FOR DELETE FROM orders",
        "EXECUTE IMMEDIATE 'DELETE FROM orders'",
        "ANALYZE FORMAT=JSON DELETE FROM orders",
        "RENAME TABLE orders TO gone",
        "OPTIMIZE TABLE orders",
        "CREATE USER thief",
        "GRANT ALL ON *.* TO root@localhost",
        "HANDLER secret OPEN",
        "LOCK TABLES orders WRITE",
        "FLUSH TABLES",
    ],
}


def state(place: Place) -> str:
    tables = {
        "sqlite": "SELECT group_concat(sql) FROM sqlite_master",
        "postgres": "SELECT string_agg(relname || relnatts, ',' ORDER BY relname) FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace",
        "mysql": "SELECT GROUP_CONCAT(CONCAT(table_name, column_name) ORDER BY 1) FROM"
        " information_schema.columns WHERE table_schema = 'app'",
    }[place.dialect]
    many = "group_concat(id || token)" if place.dialect == "sqlite" else "CONCAT(id, token)"
    extra = {
        "postgres": "SELECT last_value || is_called::text FROM counter",
        "mysql": "SELECT COUNT(*) FROM mysql.user",
    }.get(place.dialect, "SELECT 1")
    orders = "SELECT SUM(id * 1000 + customer_id + total) FROM orders"
    return place.run(f"SELECT ({orders}), (SELECT {many} FROM secret), ({tables}), ({extra})")


def cases() -> list[tuple[str, str]]:
    return [(dialect, sql) for dialect, more in ONE_DIALECT.items() for sql in WRITES + more]


@pytest.mark.parametrize(("dialect", "sql"), cases())
async def test_a_connection_that_reads_changes_nothing(
    request: pytest.FixtureRequest, opened: Open, dialect: str, sql: str
) -> None:
    name = {"sqlite": "sqlite_place", "postgres": "postgres_place", "mysql": "mariadb_place"}[dialect]
    place: Place = request.getfixturevalue(name)
    if place.dialect == "postgres":
        place.run("CREATE SEQUENCE IF NOT EXISTS counter")
    before = state(place)
    shop = opened(place, place.settings(time=2.0))
    with pytest.raises(SandboxServerError):
        await shop.query(Query(sql), caller=ME)
    assert state(place) == before
    answer = await shop.query(Query("SELECT COUNT(*) FROM orders"), caller=ME)
    assert answer.rows == ((3,),)


SQLITE_SECRETS = [
    "SELECT token FROM secret",
    "SELECT * FROM 'secret'",
    "SELECT * FROM [secret]",
    "SELECT token FROM leak",
    "SELECT (SELECT token FROM secret)",
    "VALUES ((SELECT token FROM secret))",
    "WITH secret AS (SELECT * FROM secret) SELECT * FROM secret",
    "WITH leak AS (SELECT * FROM secret) SELECT * FROM leak",
    "WITH customers AS (SELECT token FROM secret) SELECT * FROM customers",
    "SELECT name FROM customers UNION SELECT token FROM secret",
    "SELECT id FROM customers WHERE EXISTS (SELECT 1 FROM secret WHERE token LIKE 'c%')",
    "SELECT COUNT(*) FROM secret",
    "SELECT rowid FROM secret",
    "SELECT * FROM customers NATURAL JOIN secret",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM sqlite_schema",
    "SELECT * FROM pragma_table_info('secret')",
    "SELECT * FROM pragma_database_list",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT randomblob(10)",
    "SELECT zeroblob(10)",
    "SELECT fts3_tokenizer('simple')",
    "SELECT sqlite_version()",
    "SELECT printf('%1000000000d', 1)",
    "SELECT email FROM customers",
    "SELECT * FROM customers",
    "SELECT c.* FROM customers c",
    "SELECT id FROM customers ORDER BY email",
    "SELECT id FROM customers WHERE email LIKE 'a%'",
    "SELECT value FROM json_each('[1]')",
    "EXPLAIN SELECT token FROM secret",
    "EXPLAIN QUERY PLAN DELETE FROM orders",
]


@pytest.mark.parametrize("sql", SQLITE_SECRETS)
async def test_sqlite_itself_reads_only_what_the_rules_show(
    sqlite_place: Place, opened: Open, sql: str
) -> None:
    rules = sqlite_place.rules(columns_deny=("main.customers.email",))
    with pytest.raises(SandboxServerError) as refused:
        await opened(sqlite_place, sqlite_place.settings(rules)).query(Query(sql), caller=ME)
    assert "canary" not in str(refused.value)
    assert refused.value.code in ("policy_denied", "invalid_request")


async def test_a_name_of_the_statements_own_gives_no_right_to_the_table(
    sqlite_place: Place, opened: Open
) -> None:
    """Which of the two SQLite takes for `secret` is its own affair."""
    sql = "WITH a AS (SELECT * FROM secret), secret AS (SELECT 1) SELECT * FROM a"
    assert (await opened(sqlite_place).query(Query(sql), caller=ME)).rows == ((1,),)


async def test_sqlite_counts_and_aggregates_what_the_rules_show(sqlite_place: Place, opened: Open) -> None:
    rules = sqlite_place.rules(columns_deny=("main.customers.email",))
    sql = (
        "WITH big AS (SELECT customer_id, SUM(total) AS s FROM orders GROUP BY customer_id) "
        "SELECT name, s, COUNT(*) OVER () FROM customers JOIN big ON customer_id = customers.id "
        "WHERE name LIKE '%a%' ORDER BY s"
    )
    answer = await opened(sqlite_place, sqlite_place.settings(rules)).query(Query(sql), caller=ME)
    assert answer.rows == (("Ada", 30.5, 1),)


async def test_sqlite_gives_a_functions_table_only_where_the_function_is_allowed(
    sqlite_place: Place, opened: Open
) -> None:
    rules = sqlite_place.rules(functions=frozenset({"json_each"}))
    shop = opened(sqlite_place, sqlite_place.settings(rules))
    answer = await shop.query(Query("SELECT value FROM json_each('[1, 2]')"), caller=ME)
    assert answer.rows == ((1,), (2,))
    with pytest.raises(SandboxServerError):
        await shop.query(Query("SELECT value FROM json_tree('[1, 2]')"), caller=ME)


async def test_a_runaway_statement_is_stopped_by_the_engine(place: Place, opened: Open) -> None:
    endless = {
        "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n",
        "postgres": "SELECT pg_sleep(30)",
        "mysql": "SELECT SLEEP(30) FROM customers",
    }[place.dialect]
    shop = opened(place, place.settings(time=0.3))
    with pytest.raises(SandboxServerError) as refused:
        await shop.query(Query(endless), caller=ME)
    assert refused.value.code == "limit_exceeded"
    assert "0.3 s" in refused.value.message
    assert (await shop.query(Query("SELECT COUNT(*) FROM orders"), caller=ME)).rows == ((3,),)


async def test_postgres_finds_nothing_through_a_search_path(postgres_place: Place, opened: Open) -> None:
    """A function in the default schema does not take the place of one of the server's own."""
    postgres_place.run(
        "CREATE OR REPLACE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$"
    )
    answer = await opened(postgres_place).query(Query("SELECT lower('A')"), caller=ME)
    postgres_place.run("DROP FUNCTION public.lower(text)")
    assert answer.rows == (("a",),)


async def test_mariadb_reads_strings_as_the_guard_does(mariadb_place: Place, opened: Open) -> None:
    """Whatever its operator set: in other modes a quote or a backslash would mean something else."""
    mariadb_place.run("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'")
    try:
        sql = """SELECT "name", 'a\\'b', 1 || 0"""
        answer = await opened(mariadb_place).query(Query(sql), caller=ME)
    finally:
        mariadb_place.run("SET GLOBAL sql_mode = DEFAULT")
    assert answer.rows == (("name", "a'b", 1),)
