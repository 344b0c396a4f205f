"""`*` and `?` in a name, without regexes: at most pattern times name steps."""

from __future__ import annotations


def segment_matches(pattern: str, name: str) -> bool:
    """`*` is any characters, also none; `?` exactly one. Letters as they are."""
    if "*" not in pattern and "?" not in pattern:
        return pattern == name
    at = position = 0
    star, resume = -1, 0
    while position < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[position]):
            at, position = at + 1, position + 1
        elif star >= 0:
            # Only the last star ever has to take one character more.
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return pattern[at:].strip("*") == ""
