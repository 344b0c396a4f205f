"""Whatever callers and programs are called, and however many there are: few series, and text that parses."""

from __future__ import annotations

from collections import Counter as Tally
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parsed

from sandbox_server.observe.families import LONGEST, OTHER, Count, Names, Spread
from sandbox_server.observe.metrics import MOST_PRINCIPALS, Metrics
from sandbox_server.text import on_one_line

HOSTILE = st.text(max_size=400) | st.sampled_from(
    ['"} 1\nsandbox_fake 7', "\\", 'a"b', "\x1b[2J", "\ud800", "\u202egnp.exe", "other", "", "x" * 10_000]
)


def families(registry: CollectorRegistry) -> dict[str, Metric]:
    return {each.name: each for each in parsed(generate_latest(registry).decode())}


def labels(registry: CollectorRegistry, name: str) -> list[dict[str, str]]:
    found = families(registry).get(name)
    return [] if found is None else [dict(sample.labels) for sample in found.samples]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(HOSTILE, HOSTILE), max_size=60))
def test_a_metric_has_no_more_series_than_it_may_whatever_its_labels_are(
    pairs: list[tuple[str, str]],
) -> None:
    registry = CollectorRegistry()
    count = Count(registry, "things", "Things.", ("kind", "name"), ("name",), most=8)
    for kind, name in pairs:
        count.add(kind, name)
    found = families(registry)
    assert set(found) <= {"things"}, "no label has made a line of its own"
    samples = [each for each in found["things"].samples if each.name == "things_total"] if found else []
    assert len(samples) <= 17
    assert sum(each.value for each in samples) == len(pairs)
    for sample in samples:
        assert all(len(value) <= LONGEST and value == on_one_line(value) for value in sample.labels.values())


def test_an_open_label_is_folded_before_one_of_our_own() -> None:
    registry = CollectorRegistry()
    count = Count(registry, "things", "Things.", ("kind", "name"), ("name",), most=2)
    for name in ("a", "b", "c", "d"):
        count.add("good", name)
    count.add("bad", "a")
    count.add("good", "a")
    tally = {tuple(s.labels.values()): s.value for s in families(registry)["things"].samples}
    assert tally == {("good", "a"): 2, ("good", "b"): 1, ("good", OTHER): 2, ("bad", OTHER): 1}


def test_a_label_that_is_said_to_be_open_must_be_there() -> None:
    with pytest.raises(ValueError, match="no label nmae"):
        Count(CollectorRegistry(), "things", "Things.", ("name",), ("nmae",))


def test_durations_are_sorted_into_buckets_from_a_millisecond_to_a_minute() -> None:
    registry = CollectorRegistry()
    spread = Spread(registry, "took_seconds", "Time.", ("tool",))
    for seconds in (0.0005, 0.02, 59, 61, -1):
        spread.add("run", seconds=seconds)
    counts = {
        sample.labels["le"]: sample.value
        for sample in families(registry)["took_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert len(counts) == 16
    assert [counts[each] for each in ("0.001", "0.025", "60.0", "+Inf")] == [2, 3, 4, 5]


@given(st.lists(HOSTILE, max_size=30))
def test_names_after_the_first_ones_are_other(names: list[str]) -> None:
    known = Names(5)
    assert len({known(name) for name in names}) <= 6


def test_a_thousand_principals_are_a_hundred_and_the_others() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.principal(f"p{number}", "call", "allowed", sent=1, received=2)
    found = labels(metrics.registry, "sandbox_principal_requests")
    assert len(found) == MOST_PRINCIPALS + 1
    assert {"principal": OTHER, "kind": "call", "verdict": "allowed"} in found
    samples = families(metrics.registry)["sandbox_principal_requests"].samples
    assert sum(sample.value for sample in samples) == 1000


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.calls.add("code_execution", "ok")
    assert labels(one.registry, "sandbox_tool_calls") == [{"tool": "code_execution", "outcome": "ok"}]
    assert labels(other.registry, "sandbox_tool_calls") == []


OPEN: dict[str, tuple[str, ...]] = {
    "web": ("allowed", "2xx", "first"),
    "egress": ("allowed", "connect"),
    "decisions": ("web_api", "allow"),
}


@settings(max_examples=10, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=50), st.integers(0, 10))
def test_the_whole_text_parses_whatever_was_counted(texts: list[str], start: int) -> None:
    metrics = Metrics()
    for text in texts:
        metrics.web.add(*OPEN["web"], text, text)
        metrics.egress.add(*OPEN["egress"], text, text)
        metrics.decisions.add(*OPEN["decisions"], text)
        metrics.statements.add(text, text, text)
        metrics.principal(text, "web", "denied", sent=start)
    tally: Tally[str] = Tally()
    for family in parsed(generate_latest(metrics.registry).decode()):
        assert family.name.startswith(("sandbox_", "process_"))
        tally[family.name] += 1
    assert set(tally.values()) == {1}


def test_process_metrics_are_those_of_this_process() -> None:
    found: Any = families(Metrics().registry)
    assert found["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert found["process_open_fds"].samples[0].value > 2
