"""Pages of something large, and a search in it. Pure; offsets are in bytes.

The search is for plain text: a caller's regular expression over a program's output could keep
a processor busy for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sandbox_server.execution.capture import trim_end

_CHUNK = 1024 * 1024
_BEFORE, _AFTER = 200, 300
"""How much of a long line is shown around a match."""
MOST_MATCHES = 1000
MOST_NEEDLE = 200


@dataclass(frozen=True, slots=True)
class Match:
    """The line that a match is in, or the part of it around the match. `offset` is where `text` begins."""

    offset: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Matches:
    """`next` is where to go on searching; None: all was searched."""

    found: tuple[Match, ...]
    next: int | None


def text_page(data: bytes, offset: int, total: int) -> tuple[bytes, int | None]:
    """`data`, which was read at `offset`, without a character that the end of the page splits, and
    where the next page begins. Following `next` yields every byte exactly once."""
    if offset + len(data) >= total:
        return data, None
    whole = trim_end(data) or data
    return whole, offset + len(whole)


def search(
    read: Callable[[int, int], bytes], size: int, needle: bytes, *, offset: int, limit: int
) -> Matches:
    """Lines with `needle` in them, in order, from `offset`, until they have `limit` bytes together.

    `read(at, count)` gives up to `count` bytes. One match of a line is enough, but a line that is shown
    in part is searched on behind that part.
    """
    found: list[Match] = []
    shown = 0
    at = floor = offset
    while at < size:
        chunk = read(at, _CHUNK)
        place = chunk.find(needle)
        if place < 0:
            # A match may lie across the end of the chunk.
            step = len(chunk) - len(needle) + 1
            if at + len(chunk) >= size or step <= 0:
                break
            at += step
            continue
        match = _around(read, at + place, len(needle), floor)
        if shown >= limit or len(found) >= MOST_MATCHES:
            return Matches(tuple(found), match.offset)
        found.append(match)
        shown += len(match.text)
        at = floor = match.offset + len(match.text)
    return Matches(tuple(found), None)


def _around(read: Callable[[int, int], bytes], place: int, length: int, floor: int) -> Match:
    start = max(place - _BEFORE, floor)
    before = read(start, place - start)
    after = read(place, length + _AFTER)
    begin = before.rfind(b"\n") + 1
    end = after.find(b"\n", length)
    return Match(start + begin, before[begin:] + (after if end < 0 else after[:end]))
