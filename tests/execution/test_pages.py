"""Paging and searching: the arithmetic."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_server.execution import pages
from sandbox_server.execution.pages import Matches, search, text_page

NEEDLES = st.text("ab", min_size=1, max_size=3).map(str.encode)
LINES = st.lists(st.text("abc€", max_size=6), max_size=40).map(lambda lines: "\n".join(lines).encode())


def find(data: bytes, needle: bytes, *, offset: int = 0, limit: int = 10**9) -> Matches:
    return search(lambda at, size: data[at : at + size], len(data), needle, offset=offset, limit=limit)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)), st.integers(1, 50))
@example("€€€".encode(), 1)
def test_following_the_pages_yields_every_byte_once(data: bytes, limit: int) -> None:
    pieces, offset = [], 0
    for _ in range(len(data) + 1):
        piece, after = text_page(data[offset : offset + limit], offset, len(data))
        pieces.append(piece)
        if after is None:
            break
        assert after > offset
        offset = after
    assert b"".join(pieces) == data


@given(st.text(max_size=100), st.integers(4, 50))
def test_no_page_of_text_splits_a_character(text: str, limit: int) -> None:
    data, offset, pieces = text.encode(), 0, []
    while True:
        piece, after = text_page(data[offset : offset + limit], offset, len(data))
        pieces.append(piece.decode())
        if after is None:
            break
        offset = after
    assert "".join(pieces) == text


def test_a_page_behind_the_end_is_empty_and_the_last() -> None:
    assert text_page(b"", 10, 5) == (b"", None)


@given(LINES, NEEDLES)
def test_the_search_finds_the_lines_that_a_plain_search_finds(data: bytes, needle: bytes) -> None:
    matches = find(data, needle)
    assert [match.text for match in matches.found] == [line for line in data.split(b"\n") if needle in line]
    assert matches.next is None
    for match in matches.found:
        assert data[match.offset : match.offset + len(match.text)] == match.text


@given(LINES, NEEDLES, st.integers(1, 20))
def test_a_search_in_pages_finds_the_same(data: bytes, needle: bytes, limit: int) -> None:
    found, offset = [], 0
    for _ in range(len(data) + 1):
        matches = find(data, needle, offset=offset, limit=limit)
        found += matches.found
        if matches.next is None:
            break
        assert matches.next > offset
        offset = matches.next
    assert tuple(found) == find(data, needle).found


def test_a_match_across_chunks_is_found() -> None:
    for shift in range(-6, 2):
        data = b"x" * (pages._CHUNK + shift) + b"needle" + b"y" * 10
        (match,) = find(data, b"needle").found
        assert b"needle" in match.text


def test_a_line_without_an_end_is_shown_around_its_matches() -> None:
    data = b"x" * 5000 + b"one" + b"x" * 5000 + b"one" + b"x" * 5000
    matches = find(data, b"one").found
    assert len(matches) == 2
    assert all(len(match.text) < 600 and b"one" in match.text for match in matches)


def test_matches_are_bounded_in_number() -> None:
    matches = find(b"a\n" * 5000, b"a")
    assert len(matches.found) == pages.MOST_MATCHES
    assert matches.next == 2 * pages.MOST_MATCHES
