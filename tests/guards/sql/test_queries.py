"""Analytics that must pass, on real engines: what runs means what was written."""

from __future__ import annotations

from typing import Any

import pytest

from tests.guards.sql.canaries import CANARY, Engine
from tests.guards.sql.corpus import QUERIES
from tests.guards.sql.rules import DIALECTS, ask

# Where what runs differs on purpose: `*` leaves out what is withheld.
_STARS = {"select * from users", "select u.* from users u", "select exists (select * from users)"}
# MariaDB has no arrows, and no FULLTEXT index is made here: the original can't be run to compare.
_OURS_ONLY = {"select data -> '$.a', data ->> '$.b' from orders"}


def test_analytics_run_and_mean_what_was_written(engine: Engine) -> None:
    for sql in QUERIES[engine.dialect]:
        verdict = ask(engine.dialect, sql)
        assert verdict.allowed, (sql, verdict)
        if verdict.parameters:
            continue
        rows = engine.run(verdict.sql)
        assert CANARY not in str(rows)
        if sql not in _STARS | _OURS_ONLY and "now" not in sql:
            assert _comparable(rows) == _comparable(engine.run(sql)), verdict.sql
    assert not engine.touched


def _comparable(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(str(row) for row in rows)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_runs_is_judged_the_same_and_does_not_change_again(dialect: Any) -> None:
    for sql in QUERIES[dialect]:
        verdict = ask(dialect, sql)
        again = ask(dialect, verdict.sql)
        assert (again.sql, again.relations, again.functions) == (
            verdict.sql,
            verdict.relations,
            verdict.functions,
        )


def test_a_string_reaches_the_engine_as_it_was_written(engine: Engine) -> None:
    for text in (
        "it''s",
        "a:b",
        ":id",
        "::int",
        "50%",
        "%s",
        "?",
        "$1",
        "-- x",
        "/* x */",
        "a;b",
        '"',
        "`",
        "[x]",
        "\u00e9\u4e16\U0001f600",
        "a\nb\tc",
    ):
        verdict = ask(engine.dialect, f"select '{text}'")
        assert engine.run(verdict.sql) == [(text.replace("''", "'"),)]


def test_backslashes_are_those_of_the_engine(engine: Engine) -> None:
    for text in (r"a\\b", r"a\'b", r"\%", r"\_", r"\n", r"\\''", r"\\\\"):
        if engine.dialect != "mysql" and r"\'" in text:
            continue
        verdict = ask(engine.dialect, f"select '{text}'")
        assert verdict.allowed, verdict
        assert engine.run(verdict.sql) == engine.run(f"select '{text}'")


def test_star_leaves_out_what_is_withheld(engine: Engine) -> None:
    for sql in ("select * from users", "select u.* from users u", "select * from (select * from users) x"):
        assert engine.run(ask(engine.dialect, sql).sql)[0] == (1, "ada")
    both = engine.run(
        ask(engine.dialect, "select * from users u join orders o on o.user_id = u.id where o.id = 1").sql
    )
    assert both[0][:3] == (1, "ada", 1)
    assert not engine.touched


def test_a_query_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    for dialect in DIALECTS:
        for sql in QUERIES[dialect]:
            ask(dialect, sql)
    assert caplog.text == ""
