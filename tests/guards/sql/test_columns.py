"""What of a relation may be seen, when some of it may not."""

from __future__ import annotations

import pytest

from sandbox_server.guards.sql import Dialect
from tests.guards.sql.rules import DIALECTS, SCHEMAS, ask


@pytest.mark.parametrize("dialect", DIALECTS)
def test_star_becomes_the_columns_that_may_be_seen(dialect: Dialect) -> None:
    verdict = ask(dialect, "select * from users")
    assert verdict.allowed
    assert "password" not in verdict.sql
    assert "name" in verdict.sql
    schema = SCHEMAS[dialect]
    assert verdict.columns == (f"{schema}.users.id", f"{schema}.users.name")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_star_is_refused_where_nobody_says_which_columns_there_are(dialect: Dialect) -> None:
    verdict = ask(dialect, "select * from users", known=False)
    assert verdict.reason == "sql.column"
    assert verdict.hint == "name the columns"
    assert ask(dialect, "select * from orders", known=False).allowed
    assert ask(dialect, "select id, name from users", known=False).allowed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_star_of_one_relation_is_expanded_beside_others_that_are_not(dialect: Dialect) -> None:
    verdict = ask(dialect, "select o.*, x.* from orders o, (select 1 as a) x")
    assert verdict.sql.startswith("SELECT o.*, x.* FROM")
    assert "o.*" in ask(dialect, "select * from orders o join users u on u.id = o.user_id").sql


@pytest.mark.parametrize("dialect", DIALECTS)
def test_only_allowed_columns_can_be_seen(dialect: Dialect) -> None:
    only = (f"{SCHEMAS[dialect]}.users.id", f"{SCHEMAS[dialect]}.users.name")
    assert ask(dialect, "select id, name from users", columns_allow=only, columns_deny=()).allowed
    assert not ask(dialect, "select password from users", columns_allow=only, columns_deny=()).allowed
    assert not ask(dialect, "select total from orders", columns_allow=only, columns_deny=()).allowed
    assert "password" not in ask(dialect, "select * from users", columns_allow=only, columns_deny=()).sql


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "select id from users where password is null",
        "select id from users group by id, password",
        "select max(id) over (partition by password) from users",
        "select id from users where exists (select 1 from orders where note = password)",
        "select id from users where exists (select 1 from orders where note = users.password)",
        "select id from orders where (select password from users limit 1) = note",
        "select case password when 'x' then 1 end from users",
        "select id from users where password || 'x' = 'y'",
        "select id from users where id in (1, password)",
        "select id from users where password between 'a' and 'b'",
        "select x.id from users x, users y where x.id = y.password",
        "with u as (select * from users) select password from users",
        "select id as password from users order by password",
        "select distinct password from users",
        "select count(distinct password) from users",
        "select * from users natural join orders",
        "select id from users join orders using (password)",
    ],
)
def test_a_withheld_column_can_not_be_read_anywhere(dialect: Dialect, sql: str) -> None:
    for known in (True, False):
        assert ask(dialect, sql, known=known).reason == "sql.column"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_column_of_that_name_elsewhere_can_be_read(dialect: Dialect) -> None:
    assert ask(dialect, "select x.password from (select id as password from orders) x").allowed
    assert ask(dialect, "select password from (select id as password from orders) x").allowed


def test_an_attribute_that_would_be_a_call_needs_to_be_a_column() -> None:
    """PostgreSQL takes `f.pg_read_file` for `pg_read_file(f)`: a call that looks like none."""
    for sql in (
        "select f.pg_read_file from unnest(array['/etc/passwd']) f",
        "select f.pg_ls_dir from unnest(array['/']) as f",
        "select x.my_function from (select 1 as a) x",
        "with x as (select 1 as a) select x.my_function from x",
        "select o.my_function from orders o",
        "select o.pg_read_file from orders o",
    ):
        assert not ask("postgres", sql).allowed, sql
    for sql in (
        "select f.f, f.x from unnest(array['a']) f(x)",
        "select x.a from (select 1 as a) x",
        "with x as (select id, * from orders) select x.total from x",
        "select x.column1 from (values (1)) x",
        "select e.key from orders o, jsonb_each(o.data) e",
        "with recursive n(x) as (select 1 union all select n.x + 1 from n) select n.x from n limit 3",
    ):
        assert ask("postgres", sql).allowed, (sql, ask("postgres", sql))


def test_whole_rows_can_be_used_where_nothing_is_withheld() -> None:
    assert ask("postgres", "select row_to_json(o) from orders o").allowed
    assert ask("postgres", "select to_jsonb(x) from (select id, name from users) x").allowed
    assert not ask("postgres", "select row_to_json(u) from users u").allowed


def test_the_row_number_of_sqlite_is_no_way_to_a_withheld_key() -> None:
    assert not ask("sqlite", "select rowid from users", columns_deny=("*.users.id",)).allowed
    for sql in (
        "select u.rowid from (select name from users) u",
        "select rowid from (select name from users)",
    ):
        assert not ask("sqlite", sql).allowed
    assert ask("sqlite", "select rowid from orders").allowed
    assert ask("sqlite", "select x.rowid from (select rowid from orders) x").allowed


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql", ["select {} from users", "select u.{} from users u", "select id from users where {} = 1"]
)
def test_a_withheld_column_is_refused_alike_whether_it_exists_or_not(dialect: Dialect, sql: str) -> None:
    deny = ("*.users.pass*",)
    there, absent = (ask(dialect, sql.format(name), columns_deny=deny) for name in ("password", "passcode"))
    assert not there.allowed
    assert (there.reason, there.rule, there.hint) == (absent.reason, absent.rule, absent.hint)
    assert there.message.replace("password", "passcode") == absent.message


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "select name as passcode from users order by passcode",
        "select passcode from users, (select 1 as passcode) x",
        "select id from users where exists (select 1 from (select 1 as passcode) x where passcode = id)",
    ],
)
def test_a_name_that_is_somebody_elses_is_not_taken_for_a_withheld_column(dialect: Dialect, sql: str) -> None:
    assert ask(dialect, sql, columns_deny=("*.users.pass*",)).allowed
