"""Named parameters: declared, unharmed, and never mistaken for what only looks like one."""

from __future__ import annotations

import sqlite3

import pytest

from sandbox_server.guards.sql import Dialect, placed
from tests.guards.sql.rules import DIALECTS, ask

TRICKY = (
    "select ':no', total::text, '%s', note from orders where id = :id and (note = :note or user_id = :id)"
)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_parameters_are_told_in_order_of_their_first_use(dialect: Dialect) -> None:
    verdict = ask(dialect, "select id from orders where note = :b and id > :a and total < :b limit :n")
    assert verdict.parameters == ("b", "a", "n")
    assert ":b" in verdict.sql


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql", ["select ?", "select $1", "select %s", "select %(a)s", "select :1", "select @a", "select :'a'"]
)
def test_parameters_without_a_name_are_refused(dialect: Dialect, sql: str) -> None:
    assert not ask(dialect, sql).allowed


def test_each_driver_gets_its_own_marks() -> None:
    sql = ask("postgres", TRICKY).sql
    dollars, names = placed(sql, "postgres", "numeric_dollar")
    assert names == ("id", "note")
    assert "id = $1 AND (note = $2 OR user_id = $1)" in dollars
    assert "':no'" in dollars
    percent, uses = placed(sql, "postgres", "format")
    assert uses == ("id", "note", "id")
    assert "'%%s'" in percent
    assert percent % ("1", "2", "1") == sql.replace(":id", "1").replace(":note", "2")
    text, _ = placed(sql, "postgres", "text")
    assert r"'\:no'" in text
    assert "id = :id" in text
    assert placed(sql, "postgres", "named") == (sql, ("id", "note"))


def test_a_slice_is_no_parameter() -> None:
    verdict = ask("postgres", "select (array[1, 2, 3])[1:2]")
    assert verdict.allowed
    assert verdict.parameters == ()
    assert placed(verdict.sql, "postgres", "text")[0] == r"SELECT (ARRAY[1, 2, 3])[1\:2]"


def test_values_reach_the_database_where_the_marks_are() -> None:
    verdict = ask("sqlite", "select :a, ':a', '?', :b, :a")
    sql, uses = placed(verdict.sql, "sqlite", "qmark")
    values = {"a": "x", "b": "it's :a ? --"}
    with sqlite3.connect(":memory:") as connection:
        row = connection.execute(sql, [values[name] for name in uses]).fetchone()
    connection.close()
    assert row == ("x", ":a", "?", "it's :a ? --", "x")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_keyword_is_no_name_of_a_parameter_and_the_refusal_says_so(dialect: Dialect) -> None:
    verdict = ask(dialect, "select id from orders where note > :from")
    assert (verdict.reason, verdict.hint) == ("sql.parameter", "write :from_")
    assert ask(dialect, "select id from orders where note > :from_").allowed
