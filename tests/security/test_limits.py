"""Rates hold in every window, and nothing that happens to a call loses or mints a permit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.errors import Busy
from sandbox_server.security.limits import NANO, Buckets, Rate

KEY = ("someone", "web_api")


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


rates = st.builds(Rate, st.integers(1, 500), st.integers(1, 86400), st.integers(1, 50))


@given(rates, st.lists(st.tuples(st.integers(0, 100 * NANO), st.integers(1, 5)), max_size=60))
def test_no_window_grants_more_than_burst_plus_rate_times_time(
    rate: Rate, calls: list[tuple[int, int]]
) -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    granted: list[tuple[int, int]] = []
    for gap, amount in calls:
        clock.now += gap
        if buckets.take(KEY, rate, amount) == 0.0:
            granted.append((clock.now, amount))
    for i, (begin, _) in enumerate(granted):
        for j in range(i, len(granted)):
            end = granted[j][0]
            got = sum(amount for _, amount in granted[i : j + 1])
            assert got * rate.per * NANO <= rate.burst * rate.per * NANO + (end - begin) * rate.count


@given(rates, st.integers(1, 50))
def test_who_waits_as_long_as_told_gets_it(rate: Rate, amount: int) -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    while (wait := buckets.take(KEY, rate, amount)) == 0.0:
        pass
    if amount > rate.burst:
        assert wait == float("inf")
        return
    # A float of seconds may be a nanosecond short of what the integers say, and more for long waits.
    clock.now += int(wait * NANO * (1 + 1e-12)) + 1
    assert buckets.take(KEY, rate, amount) == 0.0


@given(rates, st.lists(st.integers(-5, 5), max_size=30))
def test_giving_back_never_makes_a_bucket_fuller_than_full(rate: Rate, amounts: list[int]) -> None:
    buckets = Buckets(clock=Clock())
    for amount in amounts:
        buckets.charge(KEY, rate, amount)
    taken = 0
    while buckets.take(KEY, rate) == 0.0:
        taken += 1
    assert taken <= rate.burst


def test_what_was_used_beyond_the_reservation_is_waited_for() -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    rate = Rate(count=10, per=10, burst=10)
    assert buckets.take(KEY, rate, 2) == 0.0
    buckets.charge(KEY, rate, 18)
    assert buckets.wait(KEY, rate) == buckets.take(KEY, rate) == 11.0


@given(rates, rates, st.integers(0, 50), st.integers(0, 50))
def test_what_was_taken_counts_in_units_also_by_another_rate(
    one: Rate, other: Rate, before: int, after: int
) -> None:
    """An operator who grants more, or less, per day instead of per minute, means it from now on."""
    buckets = Buckets(clock=Clock())
    taken = sum(buckets.take(KEY, one) == 0.0 for _ in range(before))
    got = sum(buckets.take(KEY, other) == 0.0 for _ in range(after))
    assert got == max(0, min(after, other.burst - taken))
    assert (buckets.wait(KEY, one) == 0.0) == (one.burst - taken - got >= 1)


def test_keys_do_not_share() -> None:
    buckets = Buckets(clock=Clock())
    rate = Rate(count=1, per=60, burst=1)
    assert buckets.take(("a",), rate) == 0.0
    assert buckets.take(("b",), rate) == 0.0
    assert buckets.take(("a",), rate) == 60.0


def test_a_rate_of_nothing_allows_nothing() -> None:
    assert Buckets(clock=Clock()).take(KEY, Rate(count=0, per=60, burst=10)) == float("inf")


def test_the_number_of_keys_is_bounded_without_filling_anybodys_bucket() -> None:
    clock = Clock()
    buckets = Buckets(clock=clock, max_keys=2)
    rate = Rate(count=1, per=60, burst=1)
    assert buckets.take(("a",), rate) == buckets.take(("b",), rate) == 0.0
    with pytest.raises(Busy):
        buckets.take(("c",), rate)
    assert buckets.take(("a",), rate) == 60.0
    clock.now += 60 * NANO
    assert buckets.take(("c",), rate) == 0.0
    assert len(buckets) == 1
