"""Who asks: what quotas, sessions and shares go by tells any two principals apart."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_server.policy.decision import Principal

PARTS = st.text(alphabet="ab#%25", max_size=6)
WHO = st.tuples(st.none() | PARTS, PARTS)


@given(WHO, WHO)
@example((None, "a#b"), ("a", "b"))
@example(("", "a"), (None, "a"))
@example(("a#b", "c"), ("a", "b#c"))
@example((None, "a%23b"), (None, "a#b"))
def test_no_two_principals_have_the_same_key(
    one: tuple[str | None, str], other: tuple[str | None, str]
) -> None:
    first, second = (Principal(sub=sub, iss=iss).key for iss, sub in (one, other))
    assert (first == second) == (one == other)


def test_a_key_reads_as_issuer_and_subject() -> None:
    assert Principal(sub="alice", iss="https://idp.example.com").key == "https://idp.example.com#alice"
    assert Principal().key == "anonymous"
