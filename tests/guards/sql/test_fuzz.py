"""Whatever comes in: a verdict comes out, soon, and what it allows is what it judged."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_server.guards.sql import Dialect, Operation
from tests.guards.sql.corpus import QUERIES, attacks
from tests.guards.sql.rules import DIALECTS, ask

WORDS = sorted(
    {word for dialect in DIALECTS for sql in (*QUERIES[dialect], *attacks(dialect)) for word in sql.split()}
)
OPERATIONS: tuple[Operation, ...] = ("select", "insert", "update", "delete")
soup = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=40).map(" ".join)
anything = st.text(max_size=200) | soup


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(anything, st.sampled_from(DIALECTS), st.sampled_from(OPERATIONS))
def test_any_text_gets_a_verdict_that_holds_for_what_would_run(
    sql: str, dialect: Dialect, operation: Operation
) -> None:
    verdict = ask(dialect, sql, operation=operation)
    assert verdict.allowed == (verdict.reason == "sql.ok") == bool(verdict.sql)
    if verdict.allowed:
        again = ask(dialect, verdict.sql, operation=operation)
        assert again.allowed
        assert (again.sql, again.relations, again.parameters) == (
            verdict.sql,
            verdict.relations,
            verdict.parameters,
        )


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(DIALECTS))
def test_a_query_with_a_piece_of_another_gets_a_verdict(data: st.DataObject, dialect: Dialect) -> None:
    queries = st.sampled_from([*QUERIES[dialect], *attacks(dialect)])
    one, other = data.draw(queries), data.draw(queries)
    cut = data.draw(st.integers(0, len(one)))
    begin = data.draw(st.integers(0, len(other)))
    end = data.draw(st.integers(begin, len(other)))
    verdict = ask(dialect, one[:cut] + other[begin:end] + one[cut:])
    assert verdict.allowed == bool(verdict.sql)
    assert verdict.allowed or verdict.message


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("head", "piece", "tail"),
    [
        ("select ", "(", ""),
        ("select ", "f(", ""),
        ("select ", "(a, (", ""),
        ("select 1 from ", "(", "orders"),
        ("select ", "case when ", ""),
        ("select ", "not ", "1"),
        ("select ", "- ", "1"),
        ("select 1", " + 1", ""),
        ("select 1", " || '1'", ""),
        ("select 1 where 1 = 1", " or 1 = 1", ""),
        ("select 1", " union select 1", ""),
        ("select 1 from orders", ", orders", ""),
        ("select 1 from orders", " join orders on true", ""),
        ("select 1 from orders where id in (1", ", 1", ")"),
        ("select 1", "::int", ""),
        ("select a", ".a", ""),
        ("select a", "[1]", ""),
        ("select ", "[", ""),
        ("select ", "exists (select ", ""),
        ("select * from ", "(select * from ", ""),
        ("with ", "a as (select 1), ", "b as (select 1) select 1"),
        ("select cast(1 as ", "int[", ""),
        ("select ", "interval ", "'1' day"),
        ("select '", "''", "'"),
        ("select ", "/* */ ", "1"),
        ("select ", "-- \n", "1"),
        ("select $a$", "$", "$a$"),
        ("select ", "a.", "*"),
        ("select 1", " is not null", ""),
        ("select 1 ", "order by 1 ", ""),
        ("", "(select 1) ", ""),
        ("select ", "{", ""),
        ("select ", "x -> ", "1"),
        ("select 1 between ", "1 between ", "1 and 2"),
    ],
)  # fmt: skip
def test_the_largest_statement_of_any_kind_is_judged_in_bounded_time(
    dialect: Dialect, head: str, piece: str, tail: str
) -> None:
    for many in (60, 64 * 1024 // len(piece)):
        sql = (head + piece * many)[: 64 * 1024 - len(tail)] + tail
        begin = time.process_time()
        ask(dialect, sql)
        assert time.process_time() - begin < 5
