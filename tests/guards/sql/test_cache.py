"""The judge that remembers."""

from __future__ import annotations

from sandbox_server.guards.sql import Judges, SqlJudge, judge
from tests.guards.sql.rules import catalogue, rules_of


def test_a_remembered_verdict_is_the_verdict() -> None:
    rules, columns = rules_of("postgres", mode="write"), catalogue("postgres")
    remembering = SqlJudge(rules, columns)
    for sql in ("select * from users", "select * from secret", "delete from orders where id = 1"):
        for operation in ("select", "delete"):
            fresh = judge(sql, rules, operation=operation, columns=columns)  # type: ignore[arg-type]
            for _ in range(2):
                assert remembering(sql, operation=operation) == fresh  # type: ignore[arg-type]
    assert len(remembering) == 6


def test_it_remembers_the_last_ones_only() -> None:
    remembering = SqlJudge(rules_of("sqlite"), size=3)
    first = remembering("select 1", operation="select")
    for number in range(2, 10):
        assert remembering("select 1", operation="select") is first
        remembering(f"select {number}", operation="select")
        assert len(remembering) <= 3
    assert remembering("select 9", operation="select") is remembering("select 9", operation="select")


def test_large_statements_are_not_kept() -> None:
    remembering = SqlJudge(rules_of("sqlite"), bytes_=20_000)
    for number in range(20):
        assert remembering(f"select {number}, '{'x' * 100}'", operation="select").allowed
    assert 0 < len(remembering) < 20
    remembering("select '" + "x" * 5000 + "'", operation="select")
    assert all("xxxxx" * 100 not in sql for sql, _ in remembering._verdicts)


def test_verdicts_are_remembered_by_rules_and_catalogue() -> None:
    ask, open_, closed = Judges(), rules_of("sqlite"), rules_of("sqlite", relations_allow=("main.users",))
    columns, fewer = catalogue("sqlite"), {"main.orders": ("id",)}
    assert ask("select id from orders", open_, operation="select", columns=columns).allowed
    assert not ask("select id from orders", closed, operation="select", columns=columns).allowed
    first = ask("select * from users", open_, operation="select", columns=columns)
    assert ask("select * from users", open_, operation="select", columns=columns) is first
    assert ask("select * from users", open_, operation="select").reason == "sql.column"
    assert not ask("select orders.note from orders", open_, operation="select", columns=fewer).allowed


def test_rules_and_catalogues_long_gone_are_forgotten() -> None:
    ask = Judges(size=4)
    for number in range(20):
        assert ask(
            "select 1", rules_of("sqlite"), operation="select", columns={f"main.t{number}": ("id",)}
        ).allowed
        assert len(ask) <= 4
