from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.observe.trace import current_trace, trace_id_of, traced

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_the_specifications_own_example_is_read() -> None:
    assert trace_id_of(f"00-{TRACE}-{SPAN}-01") == TRACE


@pytest.mark.parametrize(
    "wrong",
    [
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}\u0660-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01x",
        f"01-{TRACE}-{SPAN}-01-{'x' * 600}",
        "",
        7,
        None,
        {"traceparent": "x"},
    ],
)
def test_whatever_is_none_is_no_trace(wrong: object) -> None:
    assert trace_id_of(wrong) == ""


def test_what_a_later_version_adds_is_not_read() -> None:
    assert trace_id_of(f"01-{TRACE}-{SPAN}-01") == TRACE
    assert trace_id_of(f"01-{TRACE}-{SPAN}-01-what.comes\nlater") == TRACE


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_an_id_is_thirty_two_hexadecimal_digits_or_nothing(parent: str) -> None:
    found = trace_id_of(parent)
    assert found == "" or (len(found) == 32 and set(found) <= set("0123456789abcdef") and found in parent)


def test_a_trace_ends_with_what_is_done_for_it() -> None:
    with traced(TRACE):
        with traced(""):
            assert current_trace() == TRACE
        assert current_trace() == TRACE
    assert current_trace() == ""
