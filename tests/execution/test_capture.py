"""Capturing hostile output: bounded, clean, and honest about what was left out."""

from __future__ import annotations

import re
import struct
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.execution.capture import (
    MOST_DISPLAYS,
    TEXT_DISPLAY,
    Capture,
    RunCapture,
    SideChannel,
    make_visible,
)
from sandbox_server.execution.models import Captured

NOTE = re.compile(r"\n\[\.\.\. (\d+) bytes omitted \.\.\.\]\n")
PNG = b"\x89PNG\r\n\x1a\n"

TEXTS = st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))
HOSTILE = st.one_of(
    st.binary(max_size=80), TEXTS, st.sampled_from([b"\0" * 50, "é€😀".encode() * 5, b"\xff" * 40])
)
CHUNKS = st.lists(HOSTILE, max_size=8)


def captured(chunks: list[bytes], limit: int) -> Captured:
    capture = Capture(limit)
    for chunk in chunks:
        capture.feed(chunk)
    return capture.finish()


def is_clean(text: str) -> bool:
    """Valid Unicode without control, reordering or line-separating characters, but for tab and newline."""
    text.encode("utf-8")
    return make_visible(text) == text and all(c in "\n\t" or c >= " " for c in text)


@given(CHUNKS, st.integers(0, 200))
def test_the_arithmetic_adds_up(chunks: list[bytes], limit: int) -> None:
    whole = b"".join(chunks)
    result = captured(chunks, limit)
    assert result.total_bytes == len(whole)
    assert 0 <= result.omitted_bytes <= len(whole)
    note = NOTE.search(result.text)
    assert bool(note) == bool(result.omitted_bytes)
    if note and b"bytes omitted" not in whole:
        assert int(note.group(1)) == result.omitted_bytes


@given(CHUNKS, st.integers(0, 200))
def test_the_text_is_never_longer_than_the_limit_and_the_note(chunks: list[bytes], limit: int) -> None:
    result = captured(chunks, limit)
    note = f"\n[... {result.omitted_bytes} bytes omitted ...]\n" if result.omitted_bytes else ""
    assert len(result.text.encode()) <= limit + len(note)


@given(CHUNKS, st.integers(0, 200))
def test_the_text_is_clean(chunks: list[bytes], limit: int) -> None:
    assert is_clean(captured(chunks, limit).text)


@given(CHUNKS, st.integers(0, 200), st.lists(st.integers(0, 700), max_size=10))
def test_the_chunking_makes_no_difference(chunks: list[bytes], limit: int, points: list[int]) -> None:
    whole = b"".join(chunks)
    edges = sorted(point % (len(whole) + 1) for point in points)
    pieces = [whole[a:b] for a, b in zip([0, *edges], [*edges, len(whole)], strict=True)]
    assert captured(pieces, limit) == captured(chunks, limit)


@given(st.text("ab é€😀\n", max_size=300), st.integers(0, 200))
def test_head_and_tail_are_the_real_ones(text: str, limit: int) -> None:
    result = captured([text.encode()], limit)
    if len(text.encode()) <= limit:
        assert result == Captured(text, len(text.encode()), 0)
        return
    head, _, tail = NOTE.split(result.text)
    assert text.startswith(head)
    assert text.endswith(tail)
    kept = len(head.encode()) + len(tail.encode())
    assert result.omitted_bytes == len(text.encode()) - kept
    # Only a character that the cut would have split is lost on either side.
    assert kept >= limit - 6


@given(st.integers(1, 5), st.integers(0, 100))
def test_what_fits_exactly_is_not_cut(size: int, limit: int) -> None:
    assert captured([b"x" * limit], limit) == Captured("x" * limit, limit, 0)
    assert captured([b"x" * (limit + size)], limit).omitted_bytes == size


def test_binary_output_does_not_blow_up() -> None:
    """A program that prints NULs must not get four times the space that the caller asked for."""
    result = captured([b"\0" * 100_000], 10_000)
    assert len(result.text) <= 10_000 + 50
    assert result.text.startswith("\\x00\\x00")
    assert result.text.endswith("\\x00\\x00")
    assert result.omitted_bytes == 100_000 - NOTE.sub("", result.text).count("\\x00")


def test_binary_that_would_fit_raw_but_not_shown_is_cut_and_says_so() -> None:
    result = captured([b"\0" * 10_000], 10_000)
    assert len(result.text) <= 10_000 + 50
    assert result.omitted_bytes == 10_000 - NOTE.sub("", result.text).count("\\x00")


def test_a_gigabyte_is_held_in_a_few_limits() -> None:
    capture = Capture(64 * 1024)
    chunk = b"x" * (64 * 1024)
    tracemalloc.start()
    try:
        for _ in range(16 * 1024):
            capture.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert capture.total == 1024**3
    assert peak < 4 * 64 * 1024


@given(st.text())
def test_made_visible_is_clean_and_stays_the_same(text: str) -> None:
    shown = make_visible(text)
    assert is_clean(shown)
    assert make_visible(shown) == shown


def test_what_plays_tricks_is_shown_as_escapes() -> None:
    assert make_visible("a\tb\nc") == "a\tb\nc"
    assert make_visible("\x1b[31mred\r\x00\x7f\x9b") == "\\x1b[31mred\\r\\x00\\x7f\\x9b"
    assert make_visible("\u202eevil\u2066\u2028\ufeff") == "\\u202eevil\\u2066\\u2028\\ufeff"
    assert make_visible("\ud800x") == "\ufffdx"


# --- the side channel


def record(kind: int, body: bytes) -> bytes:
    return struct.pack(">BI", kind, len(body)) + body


def display(mime: str, data: bytes) -> bytes:
    return record(2, mime.encode() + b"\0" + data)


def side_of(chunks: list[bytes], limit: int) -> SideChannel:
    side = SideChannel(limit)
    for chunk in chunks:
        side.feed(chunk)
    return side


RECORDS = st.one_of(
    st.binary(max_size=40),
    st.builds(record, st.integers(0, 3), st.binary(max_size=60)),
    st.builds(display, st.sampled_from(["text/html", "image/png", "text/x"]), st.binary(max_size=60)),
    st.builds(lambda data: display("image/png", PNG + data), st.binary(max_size=30)),
    st.builds(struct.pack, st.just(">BI"), st.integers(0, 255), st.integers(0, 2**32 - 1)),
)


@given(st.lists(RECORDS, max_size=12), st.integers(0, 200))
def test_no_bytes_make_it_raise_or_hold_more_than_its_limit(chunks: list[bytes], limit: int) -> None:
    side = side_of(chunks, limit)
    assert sum(len(shown.data) for shown in side.displays) <= limit
    assert side.value is None or is_clean(side.value)
    assert all(shown.mime in ("image/png", "text/html", "text/plain") for shown in side.displays)


@given(st.lists(RECORDS, max_size=12), st.integers(0, 200), st.integers(1, 7))
def test_any_chunking_of_records_gives_the_same(chunks: list[bytes], limit: int, size: int) -> None:
    whole = b"".join(chunks)
    small = side_of([whole[at : at + size] for at in range(0, len(whole), size)], limit)
    large = side_of([whole], limit)
    assert (small.value, small.displays, small.omitted) == (large.value, large.displays, large.omitted)


def test_value_and_displays_arrive() -> None:
    side = side_of([display("text/html", b"<b>"), record(1, b"42"), display("image/png", PNG + b"x")], 100)
    assert side.value == "42"
    assert [(shown.mime, shown.data) for shown in side.displays] == [
        ("text/html", b"<b>"),
        ("image/png", PNG + b"x"),
    ]
    assert side.omitted == 0


def test_a_display_over_the_limit_is_counted_and_later_ones_still_come() -> None:
    side = side_of([display("text/html", b"x" * 200), display("text/html", b"small"), record(1, b"v")], 100)
    assert [shown.data for shown in side.displays] == [b"small"]
    assert side.omitted == 1
    assert side.value == "v"


def test_what_claims_to_be_an_image_and_is_not_is_dropped() -> None:
    side = side_of([display("image/png", b"<script>"), display("image/svg+xml", b"<svg/>")], 100)
    assert side.displays == []
    assert side.omitted == 2


def test_an_unknown_record_ends_the_channel_but_keeps_what_came_before() -> None:
    side = side_of([record(1, b"before"), record(9, b""), record(1, b"after")], 100)
    assert side.value == "before"


def test_a_record_that_claims_gigabytes_costs_no_memory() -> None:
    side = SideChannel(1000)
    tracemalloc.start()
    try:
        side.feed(struct.pack(">BI", 2, 2**32 - 1))
        for _ in range(1000):
            side.feed(b"x" * 65536)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert side.omitted == 1
    assert peak < 300_000


def test_many_tiny_displays_cost_no_more_than_a_few() -> None:
    """Eleven bytes each on the wire, two hundred in memory, and a content block each in the result."""
    side = side_of([display("text/plain", b"")] * 50_000, 8 * 1024 * 1024)
    assert len(side.displays) == MOST_DISPLAYS
    assert side.omitted > 0


def test_a_flood_of_records_ends_the_channel() -> None:
    """Parsing one costs the server more than writing it costs the program."""
    side = side_of([record(1, b"early")] * 9_999 + [display("text/html", b"x"), record(1, b"late")], 100)
    assert (side.value, len(side.displays)) == ("early", 1)


# --- one run


def test_over_turns_true_beyond_the_total_of_both_streams_and_not_at_it() -> None:
    capture = RunCapture(10, 100, 100)
    capture.feed("stdout", b"x" * 60)
    capture.feed("stderr", b"x" * 40)
    assert not capture.over
    capture.feed("stderr", b"x")
    assert capture.over
    assert capture.finish("stdout").total_bytes == 60
    assert capture.finish("stderr").total_bytes == 41


def test_a_text_display_is_bounded_as_it_is_shown() -> None:
    channel = SideChannel(16 * 1024 * 1024)
    body = b"text/html\0" + b"\x01" * 8_000_000
    channel.feed(struct.pack(">BI", 2, len(body)) + body)
    (display,) = channel.displays
    assert len(display.data) <= TEXT_DISPLAY + 100
    assert display.data.startswith(b"\\x01")
    assert b"bytes omitted" in display.data[-60:]


def test_displays_count_against_the_hard_total() -> None:
    capture = RunCapture(output=1024, output_total=100_000, display_total=10_000)
    record = struct.pack(">BI", 2, 5) + b"x/y\0z"
    capture.feed_side(record * 9_000)
    assert not capture.over
    capture.feed_side(record * 9_000)
    assert capture.over
