"""Long lists of words, kept readable."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())
