"""INSERT, UPDATE and DELETE under rules of their own."""

# ruff: noqa: E501  (a statement a line)

from __future__ import annotations

import pytest

from sandbox_server.guards.sql import Dialect, Operation
from tests.guards.sql.canaries import Engine
from tests.guards.sql.rules import DIALECTS, ask

GOOD: list[tuple[Operation, str]] = [
    ("insert", "insert into orders (id, total) values (10, 1), (11, 2)"),
    ("insert", "insert into orders (id, note) select id + 20, name from users"),
    ("insert", "insert into orders (id) with x as (select 30 as id) select id from x"),
    ("insert", "insert into users (id, name) values (10, 'x')"),
    ("update", "update orders set total = total + 1, note = 'x' where id = 1"),
    (
        "update",
        "update orders set note = (select name from users where users.id = orders.user_id) where id = 2",
    ),
    ("delete", "delete from orders where id in (select id from users where name = 'ada')"),
]
BAD: list[tuple[Operation, str, str]] = [
    ("insert", "insert into secret (id) values (1)", "sql.relation"),
    ("insert", "insert into orders (id, note) select id, canary from secret", "sql.relation"),
    ("insert", "insert into orders (note) select password from users", "sql.column"),
    ("insert", "insert into orders (note) values ((select password from users limit 1))", "sql.column"),
    ("insert", "insert into users (id, password) values (1, 'x')", "sql.column"),
    ("insert", "insert into users values (1, 'x', 'y')", "sql.column"),
    ("insert", "insert into orders (nosuch) values (1)", "sql.column"),
    ("insert", "insert into orders (id) values (pg_sleep(1))", "sql.function"),
    ("insert", "insert into mysql.user (id) values (1)", "sql.relation"),
    ("update", "update secret set id = 1 where id = 2", "sql.relation"),
    ("update", "update users set password = 'x' where id = 1", "sql.column"),
    ("update", "update users set name = password where id = 1", "sql.column"),
    ("update", "update users set name = 'x' where password like 'a%'", "sql.column"),
    ("update", "update orders set note = (select canary from secret limit 1) where id = 1", "sql.relation"),
    ("update", "update orders set total = 1", "sql.where"),
    ("update", "update orders set total = 1 where true", "sql.where"),
    ("update", "update orders set total = 1 where 1 = 1", "sql.where"),
    ("update", "update orders set total = 1 where id = id", "sql.where"),
    ("update", "update orders set total = 1 where id = 1 or 1 = 1", "sql.where"),
    ("update", "update orders set total = 1 where (id = id) or not false", "sql.where"),
    ("delete", "delete from orders", "sql.where"),
    ("delete", "delete from orders where 'a' = 'a'", "sql.where"),
    ("delete", "delete from orders where exists (select 1)", "sql.where"),
    ("delete", "delete from orders where id in (select id from secret)", "sql.relation"),
    ("delete", "delete from users where password = 'x'", "sql.column"),
    ("delete", "delete from secret where id = 1", "sql.relation"),
]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("operation", "sql"), GOOD)
def test_a_write_within_the_rules_passes(dialect: Dialect, operation: Operation, sql: str) -> None:
    verdict = ask(dialect, sql, operation=operation)
    assert verdict.allowed, verdict
    assert verdict.operation == operation


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("operation", "sql", "reason"), BAD)
def test_a_write_outside_the_rules_is_refused(
    dialect: Dialect, operation: Operation, sql: str, reason: str
) -> None:
    assert ask(dialect, sql, operation=operation).reason == reason


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("operation", "sql"), GOOD)
def test_nothing_is_written_where_the_mode_is_read(dialect: Dialect, operation: Operation, sql: str) -> None:
    assert ask(dialect, sql, operation=operation, mode="read").reason == "sql.mode"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("operation", "sql"), GOOD)
def test_the_operation_must_be_what_the_statement_does(
    dialect: Dialect, operation: Operation, sql: str
) -> None:
    for other in ("select", "insert", "update", "delete"):
        if other != operation:
            assert ask(dialect, sql, operation=other, mode="write").reason == "sql.operation"


def test_writes_do_what_they_say(engine: Engine) -> None:
    for operation, sql in GOOD:
        engine.run(ask(engine.dialect, sql, operation=operation).sql)
    engine.touched.clear()
    assert engine.run("select count(*) from orders") == [(5 + 2 + 3 + 1 - 1,)]
    assert engine.run("select note from orders where id = 2") == [("ada",)]


@pytest.mark.parametrize(
    ("dialect", "operation", "sql"),
    [
        ("postgres", "insert", "insert into orders (id) values (1) on conflict (id) do update set total = 1"),
        ("sqlite", "insert", "insert into orders (id) values (1) on conflict (id) do update set total = 1"),
        ("sqlite", "insert", "insert or replace into orders (id) values (1)"),
        ("sqlite", "insert", "insert or ignore into orders (id) values (1)"),
        ("sqlite", "insert", "replace into orders (id) values (1)"),
        ("mysql", "insert", "insert into orders (id) values (1) on duplicate key update total = 1"),
        ("mysql", "insert", "insert ignore into orders (id) values (1)"),
        ("mysql", "insert", "replace into orders (id) values (1)"),
        ("mysql", "update", "update orders o join users u on u.id = o.id set o.total = 1 where o.id = 1"),
        ("mysql", "delete", "delete o from orders o join users u on u.id = o.id where o.id = 1"),
        ("postgres", "update", "update orders set (id, total) = (select id, canary from secret) where id = 1"),
        ("postgres", "update", "update orders set total = s.id from secret s where orders.id = s.id"),
        ("postgres", "update", "update orders set note = u.password from users u where u.id = orders.id"),
        ("postgres", "delete", "delete from orders using secret where orders.id = secret.id"),
        ("postgres", "delete", "delete from orders where id = 1 returning (select canary from secret limit 1)"),
        ("postgres", "insert", "with x as (delete from orders where id = 1 returning id) insert into orders (id) select id from x"),
        ("postgres", "insert", "insert into orders (id) values (1) returning u.password"),
        ("postgres", "update", "update users set name = 'x' where id = 1 returning password"),
        ("postgres", "update", "update users set name = 'x' where id = 1 returning users"),
        ("postgres", "update", "update orders as o(a, b) set id = 1 where id = 2"),
    ],
)  # fmt: skip
def test_ways_around_are_refused(dialect: Dialect, operation: Operation, sql: str) -> None:
    for known in (True, False):
        assert not ask(dialect, sql, operation=operation, known=known).allowed


@pytest.mark.parametrize(
    ("operation", "sql"),
    [
        (
            "update",
            "update orders o set total = u.id from users u where u.id = o.user_id returning o.id, o.total",
        ),
        ("update", "update orders set (total, note) = (1, 'x') where id = 1"),
        (
            "delete",
            "delete from orders o using users u where u.id = o.user_id and u.name = 'bob' returning o.id",
        ),
        ("insert", "insert into orders (id) values (1) on conflict (id) do nothing returning id"),
        ("insert", "insert into orders default values"),
    ],
)
def test_postgres_writes_with_more_than_one_relation(operation: Operation, sql: str) -> None:
    assert ask("postgres", sql, operation=operation).allowed, ask("postgres", sql, operation=operation)


def test_returning_shows_what_may_be_seen_and_only_where_it_is_allowed() -> None:
    sql = "update users set name = 'x' where id = 1 returning *"
    assert "password" not in ask("postgres", sql, operation="update").sql
    assert ask("postgres", sql, operation="update", returning=False).reason == "sql.returning"
    assert ask("postgres", sql, operation="update", known=False).reason == "sql.column"


def test_a_where_is_not_needed_where_the_rules_say_so() -> None:
    assert ask("postgres", "delete from orders", operation="delete", require_where=False).allowed
