"""The spellings that an echo of a secret may have: one table for whole texts and for streams."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from html.entities import codepoint2name
from typing import Final
from urllib.parse import quote, quote_plus

from sandbox_server.access.secrets import MIN_LENGTH

_LONGEST_ESCAPE: Final = len("&#0000000000;")
"""Of one sign; `_escapes` and the names of HTML's entities for ASCII have none that is longer."""

_SHORTEST_TAIL: Final = 4
"""A body that is cut within a secret ends with its beginning; fewer characters than these tell nothing."""


class Spellings:
    """Of all `secrets`: `literal` ones, longest first, and `patterns` of the others. None is longer than
    `longest`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets = list(secrets)
        parts = {part for secret in secrets for part in parts_of(secret)}
        forms = {form for secret in secrets for form in forms_of(secret)}
        self.literal = _longest_first(forms)
        mixed = _longest_first(part for part in parts if not part.isalnum())
        self.patterns = [spelt(part) for part in mixed]
        lengths = [len(form) for form in forms]
        lengths += [sum(1 if each.isalnum() else _LONGEST_ESCAPE for each in part) for part in mixed]
        self.longest = max(lengths, default=0)
        self._forms = [form.encode() for form in self.literal]
        self._units = [_units(part) for part in mixed]

    def tail(self, data: bytes) -> int:
        """How many bytes at the end begin a spelling that does not end there: of a body that was cut."""
        end = data[max(0, len(data) - self.longest + 1) :]
        latest = len(end) - _SHORTEST_TAIL
        starts = [self._literal_begins(end, form) for form in self._forms]
        folded = end.lower()
        for units in self._units:
            # Few places can begin one, and each is left at the first sign that is another.
            first = {spelling[0] for spelling in units[0]}
            places = (start for start in range(latest + 1) if folded[start] in first or end[start] in first)
            starts.append(next((start for start in places if _begins(end, folded, start, units)), len(end)))
        return len(end) - min(starts, default=len(end))

    @staticmethod
    def _literal_begins(end: bytes, form: bytes) -> int:
        """Where the longest piece of `form` begins that `end` ends with; its length where there is none."""
        start = end.find(form[:_SHORTEST_TAIL])
        while start >= 0:
            if len(form) > len(end) - start and form.startswith(end[start:]):
                return start
            start = end.find(form[:_SHORTEST_TAIL], start + 1)
        return len(end)


def _units(part: str) -> list[frozenset[bytes]]:
    """What `spelt` matches, sign by sign; escapes in lower case."""
    return [_unit(sign) for sign in part]


@cache
def _unit(sign: str) -> frozenset[bytes]:
    """There are as many as ASCII has signs."""
    return frozenset(each.encode() for each in ([sign] if sign.isalnum() else _written(sign)))


def _written(sign: str) -> Iterable[str]:
    code = ord(sign)
    yield from (sign, f"\\{sign}", f"\\u00{code:02x}", f"%{code:02x}", f"%25{code:02x}")
    for zeros in range(7):
        yield f"&#x{'0' * zeros}{code:x};"
        yield f"&#{'0' * zeros}{code};"
    if code in codepoint2name:
        yield f"&{codepoint2name[code]};".lower()
    if sign == " ":
        yield "+"


def _begins(data: bytes, folded: bytes, start: int, units: Sequence[frozenset[bytes]]) -> bool:
    """`data` is spelt so from `start` on, and ends before the last unit does. `folded`: in lower case."""
    places = {start}
    for unit in units:
        following = set()
        for place in places:
            for spelling in unit:
                # A letter as it is counts by its case, an escape does not.
                text = data if len(spelling) == 1 else folded
                if len(text) - place < len(spelling) and spelling.startswith(text[place:]):
                    return True
                if text.startswith(spelling, place):
                    following.add(place + len(spelling))
        if not following:
            return False
        places = following
    return False


def _longest_first(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: (-len(text), text))


def parts_of(secret: str) -> set[str]:
    """Of "Bearer abc" also the last word: an echo may show the token alone."""
    return {part for part in (secret, *secret.split()) if len(part) >= MIN_LENGTH}


def spelt(part: str) -> str:
    """A pattern for `part` with each sign as it is or escaped, as writers do with more or fewer signs:
    `\\/`, `\\u002B`, `%2f`, `&#43;`."""
    return "".join(map(_spelt, part))


@cache
def _spelt(sign: str) -> str:
    return sign if sign.isalnum() else f"(?i:{'|'.join(_escapes(sign))})"


def _escapes(sign: str) -> Iterable[str]:
    code = ord(sign)
    yield re.escape(sign)
    yield rf"\\{re.escape(sign)}"
    yield rf"\\u00{code:02x}|%(?:25)?{code:02x}|&#(?:x0{{0,6}}{code:x}|0{{0,6}}{code});"
    if code in codepoint2name:
        yield f"&{codepoint2name[code]};"
    if sign == " ":
        yield r"\+"


def forms_of(secret: str) -> Iterable[str]:
    for part in parts_of(secret):
        raw = part.encode()
        yield from (part, quote(part, safe=""), quote(part), quote_plus(part), json.dumps(part)[1:-1])
        yield from (html.escape(part), raw.hex(), raw.hex().upper())
        yield from _base64(raw)
        if part != secret:
            yield from _decoded(part)


def _base64(raw: bytes) -> Iterable[str]:
    """In any place of a larger text: of the three alignments what no neighbour can change, and with the sign
    that is as it is only at the end."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        last = encoded[(0, 2, 3)[before] :]
        for each in (last, last[:-1] if (before + len(raw)) % 3 else last):
            if len(each) >= MIN_LENGTH:
                yield each
                yield each.replace("+", "-").replace("/", "_")


def _decoded(part: str) -> Iterable[str]:
    """Of "Basic dXNlcjpwYXNz" the pair and the password."""
    try:
        pair = base64.b64decode(part, validate=True).decode("ascii")
    except ValueError:
        return
    for piece in (pair, pair.partition(":")[2]):
        if len(piece) >= MIN_LENGTH and piece.isprintable():
            yield piece
