"""Globs over paths, as the rules of a policy write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from sandbox_server.guards.names import UrlRefused
from sandbox_server.guards.paths import canonical_path, readings

_BAD = re.compile(r"[^\x21-\x7e]|[\\?#]")
_MOST_SEGMENTS: Final = 64
"""They are what a path's segments are tried against, all of them in the worst case."""


@dataclass(frozen=True, slots=True)
class PathGlob:
    """`*` is a part of a segment, or a whole one that is not empty; `**` any number of segments, also none.

    `/repos/*/issues`, `/repos/**`, `/files/*.json`. Globs match whole paths, letter by letter.
    """

    text: str
    segments: tuple[str, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError that says what is wrong."""
        if not text.startswith("/"):
            raise ValueError("a path must begin with /")
        if len(text) > 1024:
            raise ValueError("a path glob may have at most 1,024 characters")
        if _BAD.search(text):
            raise ValueError("a path glob must be ASCII, without spaces, ?, # and backslashes")
        segments = tuple(text[1:].split("/"))
        if len(segments) > _MOST_SEGMENTS:
            raise ValueError(f"a path glob may have at most {_MOST_SEGMENTS} segments")
        if any("**" in segment and segment != "**" for segment in segments):
            raise ValueError("** must be a whole segment, as in /repos/**")
        try:
            canonical = canonical_path(text)
        except UrlRefused as error:
            raise ValueError(str(error)) from None
        if canonical != text:
            raise ValueError(f"must be written in its canonical form: {canonical}")
        return cls(text, segments)

    def matches(self, path: str) -> bool:
        """For allowing: however a server reads `path` (a canonical one), it lies within."""
        return all(self._match(each) for each in readings(path))

    def touches(self, path: str) -> bool:
        """For denying: a server may read `path` as one that lies within."""
        return any(self._match(each) for each in readings(path))

    def _match(self, path: str) -> bool:
        return _match_path(self.segments, path[1:].split("/"))

    def __str__(self) -> str:
        return self.text


def _match_segment(glob: str, segment: str) -> bool:
    if glob == "*":
        return segment != ""
    first, *middle = glob.split("*")
    if not middle:
        return glob == segment
    last = middle.pop()
    end = len(segment) - len(last)
    at = len(first)
    if at > end or not (segment.startswith(first) and segment.endswith(last)):
        return False
    # Each piece as early as it goes leaves the most for the next; `find` is linear also in the worst case.
    for piece in middle:
        found = segment.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _match_path(glob: Sequence[str], path: Sequence[str]) -> bool:
    """At most len(glob) x len(path) steps: only the last ** ever has to take one segment more."""
    at = position = 0
    resume: tuple[int, int] | None = None
    while position < len(path):
        here = glob[at] if at < len(glob) else ""
        if here == "**":
            resume = (at + 1, position)
            at += 1
        elif at < len(glob) and (
            here == path[position] or ("*" in here and _match_segment(here, path[position]))
        ):
            at, position = at + 1, position + 1
        elif resume is not None:
            at, position = resume[0], resume[1] + 1
            resume = (at, position)
        else:
            return False
    return all(each == "**" for each in glob[at:])
