"""How fast programs may ask to get out, by a clock that only the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.access.egress.pace import Pace
from sandbox_server.execution.egress import EgressAccess
from sandbox_server.guards.web import EgressLimits

from .world import ACCESS, SITE, World

pytestmark = pytest.mark.anyio
NANO = 10**9


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def test_a_burst_goes_at_once_and_each_further_one_waits_for_its_turn() -> None:
    clock = Clock()
    pace, limits = Pace(clock), EgressLimits(rate=(10, 1), burst=3)
    assert [pace.take(ACCESS, limits) for _ in range(6)] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])
    clock.now += NANO
    assert pace.take(ACCESS, limits) == 0


def test_each_principal_and_each_profile_has_a_pace_of_its_own() -> None:
    pace, limits = Pace(Clock()), EgressLimits(rate=(1, 1), burst=1)
    for access in (
        ACCESS,
        EgressAccess(ACCESS.profile, "somebody else"),
        EgressAccess("another", ACCESS.principal),
    ):
        assert pace.take(access, limits) == 0
    assert pace.take(ACCESS, limits) > 0


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 1000),
    steps=st.lists(st.integers(0, 2 * NANO), max_size=60),
)
def test_in_no_window_more_goes_than_the_burst_and_the_rate_of_its_time(
    rate: int, burst: int, steps: list[int]
) -> None:
    clock = Clock()
    pace, limits = Pace(clock), EgressLimits(rate=(rate, 1), burst=burst)
    turns = []
    for step in steps:
        clock.now += step
        turns.append(clock.now / NANO + pace.take(ACCESS, limits))
    turns.sort()
    for first in range(len(turns)):
        for last in range(first, len(turns)):
            window = turns[last] - turns[first]
            assert last - first + 1 <= burst + 1 + rate * window + 1e-6


async def test_connections_and_the_requests_in_them_wait_for_their_turn(world: World) -> None:
    taken: list[float] = []

    class Counted(Pace):
        async def wait(self, access: EgressAccess, limits: EgressLimits) -> None:
            taken.append(self.take(access, limits))

    world.gateway.pace = Counted(Clock())
    world.limits = EgressLimits(rate=(1, 1), burst=2)
    origin = await world.origin()
    world.allow(SITE, origin.port)
    head = f"GET http://{SITE}:{origin.port}/ HTTP/1.1\r\nHost: {SITE}:{origin.port}\r\n"
    one, last = f"{head}\r\n".encode(), f"{head}Connection: close\r\n\r\n".encode()
    assert (await world.say(one + one + last)).count(b"HTTP/1.1 200") == 3
    assert taken == pytest.approx([0, 0, 1]), "a connection, and the second and third request in it"
    assert (await world.say(last)).count(b"HTTP/1.1 200") == 1
    assert taken[3:] == pytest.approx([2]), "the next connection, whatever is asked for in it"
