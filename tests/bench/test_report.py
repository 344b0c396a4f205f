"""The report tells met from missed, survives its way through JSON, and compares two runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bench.report import Report, Row, change, compare
from bench.stats import Samples, percentile

MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "a system",
    "kernel": "6.1",
    "docker": "20.10",
    "cgroup": "v1, cgroupfs",
    "load": [0.1, 0.2, 0.3],
    "busy": 0.05,
}


def report(*rows: Row) -> Report:
    return Report(MACHINE, list(rows), seconds=12.0, quick=False, remarks=["a remark"])


def printed(thing: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


def line(text: str, name: str) -> str:
    (found,) = [each for each in text.splitlines() if name in each]
    return found


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert percentile([7.0], 0.99) == 7.0


def test_percentiles_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_times_are_shown_in_milliseconds() -> None:
    row = Row.of("a call", Samples([0.001, 0.002, 0.003]))
    assert (row.unit, row.p50, row.samples) == ("ms", 2.0, 3)


@pytest.mark.parametrize(
    ("ratio", "at_most", "verdict"),
    [
        (3.0, True, "met"),
        (4.0, True, "met"),
        (5.0, True, "missed by 25%"),
        (5.0, False, "met"),
        (2.0, False, "missed by 100%"),
        (0.0, True, "met"),
    ],
)
def test_a_verdict_says_by_how_much_a_target_was_missed(ratio: float, at_most: bool, verdict: str) -> None:
    row = Row("x", "ms", 1.0, target="t", ratio=ratio, bound=4.0, at_most=at_most)
    assert row.verdict == verdict
    assert row.met is (verdict == "met")


def test_a_bound_of_zero_can_be_missed() -> None:
    row = Row("survivors", "count", 2.0, target="none", ratio=2.0, bound=0.0)
    assert row.met is False
    assert row.verdict == "missed by 2"


def test_a_row_without_a_target_has_no_verdict() -> None:
    row = Row("x", "MiB", 1.0)
    assert row.met is None
    assert row.verdict == ""


def test_the_table_shows_figures_target_and_verdict() -> None:
    row = Row("a fresh container", "ms", 12.345, 20.0, 123.4, 40, target="<= 4 x no-op", ratio=5.0, bound=4.0)
    shown = line(printed(report(row).table()), "a fresh container")
    for expected in ("12.3 ms", "20.0 ms", "123 ms", "40", "<= 4 x no-op", "5.00", "missed by 25%"):
        assert expected in shown


def test_a_report_reads_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = report(Row("a", "ms", 1.5, 2.5, 3.5, 9, target="t", ratio=1.0, bound=2.0), Row("b", "/s", 6.0))
    saved.save(tmp_path / "deep" / "result.json")
    assert Report.load(tmp_path / "deep" / "result.json") == saved


def test_a_comparison_shows_what_changed_and_whether_the_verdict_did() -> None:
    before = report(
        Row("a call", "ms", 10.0, target="t", ratio=5.0, bound=4.0), Row("only before", "ms", 1.0)
    )
    after = report(Row("a call", "ms", 8.0, target="t", ratio=4.0, bound=4.0), Row("only after", "ms", 1.0))
    text = printed(compare(before, after))
    shown = line(text, "a call")
    for expected in ("10.0 ms", "8.00 ms", "-20%", "missed by 25%", "met"):
        assert expected in shown
    assert "only" not in text


def test_a_change_from_nothing_has_no_percentage() -> None:
    assert change(0.0, 3.0) == ""
    assert change(2.0, 3.0) == "+50%"
