"""Every way that is known to get past a guard of SQL, on each dialect that it concerns."""

from __future__ import annotations

import pytest

from sandbox_server.guards.sql import Dialect, judge
from tests.guards.sql.corpus import attacks
from tests.guards.sql.rules import DIALECTS, SCHEMAS, ask, rules_of


@pytest.mark.parametrize(
    ("dialect", "sql"), [(dialect, sql) for dialect in DIALECTS for sql in attacks(dialect)]
)
def test_an_attack_is_refused_with_or_without_a_catalogue(dialect: Dialect, sql: str) -> None:
    for known in (True, False):
        verdict = ask(dialect, sql, known=known)
        assert not verdict.allowed, verdict.sql
        assert verdict.sql == ""
        assert verdict.message


@pytest.mark.parametrize("operation", ["insert", "update", "delete"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_attack_becomes_fine_where_writing_is_allowed(dialect: Dialect, operation: str) -> None:
    passed = {sql for sql in attacks(dialect) if ask(dialect, sql, operation=operation).allowed}  # type: ignore[arg-type]
    fine = {
        "insert": "insert into orders (id) values (1)",
        "update": "update orders set id = 1 where id = 2",
        "delete": "delete from orders where id = 1",
    }
    assert passed == {fine[operation]}


@pytest.mark.parametrize(
    ("dialect", "sql", "reason", "words"),
    [
        ("postgres", "select 1; select 2", "sql.multiple", "one statement"),
        ("postgres", "select pg_sleep(1)", "sql.function", "function pg_sleep is not allowed"),
        ("postgres", "select * from secret", "sql.relation", "relation public.secret is not allowed"),
        ("postgres", "select * from nowhere.x", "sql.relation", "relation nowhere.x is not allowed"),
        ("postgres", "select password from users", "sql.column", "column password of public.users"),
        ("postgres", "select passwort from users u where u.passwort = 1", "sql.column", "passwort"),
        ("postgres", "delete from orders where id = 1", "sql.operation", "is a delete"),
        ("postgres", "select 'x'::regclass", "sql.type", "regclass"),
        ("postgres", "select id from orders for update", "sql.forbidden_node", "Select with locks"),
        ("postgres", "select (", "sql.parse", "not readable as SQL at line 1"),
        ("mysql", "select 1 /*! x */", "sql.comment", "executed"),
        ("mysql", "select 1 --1", "sql.comment", "without a space"),
        ("mysql", "select @a", "sql.variable", "variables"),
        ("sqlite", "pragma table_info(users)", "sql.forbidden_node", "PRAGMA"),
        ("sqlite", "select ?", "sql.parameter", "names"),
        ("sqlite", "", "sql.parse", "no statement"),
        ("sqlite", "-- nothing", "sql.parse", "no statement"),
    ],
)
def test_a_refusal_names_its_cause(dialect: Dialect, sql: str, reason: str, words: str) -> None:
    verdict = ask(dialect, sql)
    assert verdict.reason == reason
    assert words in verdict.message


def test_a_relation_that_does_not_exist_reads_like_one_that_is_withheld() -> None:
    withheld, absent = ask("postgres", "select * from secret"), ask("postgres", "select * from other.nosuch")
    assert withheld.message.replace("public.secret", "X") == absent.message.replace("other.nosuch", "X")
    assert "secret" not in withheld.hint


def test_a_column_that_does_not_exist_reads_like_one_that_is_withheld() -> None:
    withheld, absent = (
        ask("postgres", "select u.password from users u"),
        ask("postgres", "select u.nosuch from users u"),
    )
    assert withheld.message.replace("password", "X") == absent.message.replace("nosuch", "X")
    assert "password" not in withheld.hint + absent.hint
    assert "name" in absent.hint


def test_a_hint_names_what_was_probably_meant() -> None:
    assert "public.orders" in ask("postgres", "select * from ordres").hint
    assert "string_agg" in ask("postgres", "select string_ag(note, ',') from orders").hint
    assert "name" in ask("postgres", "select u.nme from users u").hint


def test_the_deciding_rule_is_named() -> None:
    assert ask("sqlite", "select * from secret").rule == "relations.deny[0]"
    assert ask("sqlite", "select password from users").rule == "columns.deny[0]"
    assert ask("sqlite", "select load_extension('x')").rule == "functions.never"
    assert ask("sqlite", "select * from orders", relations_allow=()).rule == "relations.allow"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_policy_can_allow_what_is_never_allowed(dialect: Dialect) -> None:
    names = [
        "pg_read_file",
        "load_file",
        "load_extension",
        "sleep",
        "query_to_xml",
        "set_config",
        "pg_sleep",
        "dblink",
    ]
    rules = rules_of(dialect, functions=frozenset({*names, "safe_builtin"}))
    for name in names:
        assert judge(f"select {name}('x')", rules, operation="select").rule == "functions.never"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_policy_can_allow_a_function_of_its_own(dialect: Dialect) -> None:
    own = frozenset({"my_function", "tools.other"})
    assert ask(dialect, "select my_function(1)", functions=own).allowed
    assert ask(dialect, "select tools.other(1)", functions=own).allowed
    assert not ask(dialect, "select other(1)", functions=own).allowed
    assert not ask(dialect, "select evil.my_function(1)", functions=own).allowed
    assert not ask(dialect, "select lower('x')", functions=own).allowed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_catalogue_can_be_allowed_by_its_full_name_only(dialect: Dialect) -> None:
    name = {
        "postgres": "pg_catalog.pg_class",
        "mysql": "information_schema.tables",
        "sqlite": "main.sqlite_master",
    }[dialect]
    assert not ask(dialect, f"select * from {name}", relations_allow=("*",)).allowed
    assert ask(dialect, f"select * from {name}", relations_allow=(name,)).allowed


def test_names_are_looked_up_as_the_engine_would() -> None:
    assert ask("postgres", "select id from ORDERS").allowed
    assert not ask("postgres", 'select id from "ORDERS"', relations_allow=("public.orders",)).allowed
    assert ask("sqlite", 'select id from "ORDERS"', relations_allow=("main.orders",)).allowed
    assert not ask("mysql", "select id from ORDERS", relations_allow=("shop.orders",)).allowed
    assert not ask("postgres", 'select "Password" from users', known=False).allowed
    assert not ask("sqlite", "select PassWord from users", known=False).allowed
    # A Kelvin sign is no k for SQLite, and lower() would make it one.
    assert not ask("sqlite", 'select * from "boo\u212as"', relations_allow=("main.books",)).allowed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_bare_name_is_written_with_the_schema_it_was_judged_by(dialect: Dialect) -> None:
    verdict = ask(dialect, "select id from orders")
    assert verdict.sql == f"SELECT id FROM {SCHEMAS[dialect]}.orders"
    assert verdict.relations == (f"{SCHEMAS[dialect]}.orders",)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_comment_is_left_in_what_runs(dialect: Dialect) -> None:
    verdict = ask(dialect, "select /* a */ id -- b\nfrom orders /* c */")
    assert verdict.sql == f"SELECT id FROM {SCHEMAS[dialect]}.orders"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bounds_hold_before_anything_is_parsed(dialect: Dialect) -> None:
    assert ask(dialect, "select 1" + " " * 70_000).reason == "sql.too_long"
    assert ask(dialect, "select " + "1," * 6000 + "1").reason == "sql.too_long"
    assert ask(dialect, "select " + "(" * 200 + "1" + ")" * 200).reason == "sql.depth"
    assert ask(dialect, "select " + "case when 1 then " * 200 + "1" + " end" * 200).reason == "sql.depth"
    assert ask(dialect, "select " + "not " * 3000 + "1").reason in ("sql.depth", "sql.ok")
    assert ask(dialect, "select " + "(1)+" * 2000 + "1").reason in ("sql.depth", "sql.ok")


def test_text_that_is_no_text_is_refused() -> None:
    assert not judge(None, rules_of("sqlite"), operation="select").allowed  # type: ignore[arg-type]
    assert ask("sqlite", "select '\ud800'").reason == "sql.character"
    assert ask("sqlite", "select '\x00'").reason == "sql.character"
