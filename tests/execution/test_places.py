"""Places, against a model of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.engines.profile import Profile, SandboxLimits
from sandbox_server.execution.grants import Sizing
from sandbox_server.execution.places import Places

PROFILES = [Profile("python", SandboxLimits(memory=memory)) for memory in (1, 10, 100)]


@given(
    st.integers(0, 5), st.integers(0, 150), st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=40)
)
def test_what_exists_never_exceeds_what_there_is(
    most: int, memory: int, operations: list[tuple[bool, int]]
) -> None:
    places = Places(Sizing(sandboxes=most, memory=memory))
    held: list[Profile] = []
    for take, index in operations:
        profile = PROFILES[index]
        used = sum(each.limits.memory for each in held)
        fits = len(held) < most and used + profile.limits.memory <= memory
        if take:
            assert places.take(profile) == fits
            if fits:
                held.append(profile)
        elif profile in held:
            held.remove(profile)
            places.free(profile)
        assert (places.taken, places.memory) == (len(held), sum(each.limits.memory for each in held))
    assert all(places.could_ever_take(profile) for profile in held)


def test_one_that_is_larger_than_everything_can_never_be_taken() -> None:
    places = Places(Sizing(sandboxes=3, memory=50))
    assert [places.could_ever_take(profile) for profile in PROFILES] == [True, True, False]
