"""Which of a few names somebody may have meant, in microseconds: difflib takes milliseconds for a host that
is not there, and a denial must not cost more than what it denies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_LEAST: Final = 0.45


def closest(word: str, choices: Iterable[str], most: int = 1) -> list[str]:
    """Those that share most of their pairs of letters with `word` (Dice's coefficient), the nearest first."""
    pairs = _pairs(word[:100].lower())
    scored = []
    for index, choice in enumerate(choices):
        others = _pairs(choice[:100].lower())
        score = 2 * len(pairs & others) / (len(pairs) + len(others) or 1)
        if score >= _LEAST:
            scored.append((-score, index, choice))
    return [choice for _, _, choice in sorted(scored)[:most]]


def _pairs(word: str) -> set[str]:
    framed = f" {word} "
    return {framed[at : at + 2] for at in range(len(framed) - 1)}
