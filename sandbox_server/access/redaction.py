"""Takes secrets out of what a server sends back: as they are, and in the spellings that echoes have."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from html.entities import codepoint2name
from urllib.parse import quote, quote_plus

from sandbox_server.access.secrets import MIN_LENGTH

MARK = "[secret]"
_SHORTEST_TAIL = 4
"""A body that is cut within a secret ends with its beginning; fewer characters than these tell nothing."""


class Redactor:
    """Of the secrets that one request carried. A host that is sent a secret can always hide it in what it
    answers; this is against echoes, not against a hostile host, which has the secret anyway.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        parts = {part for secret in secrets for part in _parts(secret)}
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._bytes = [form.encode() for form in self._forms]
        mixed = [_spelt(part) for part in sorted(parts, key=len, reverse=True) if not part.isalnum()]
        self._mixed = [re.compile(each) for each in mixed]
        self._mixed_bytes = [re.compile(each.encode()) for each in mixed]

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return "Redactor()"

    def text(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MARK)
        for pattern in self._mixed:
            text = pattern.sub(MARK, text)
        return text

    def json(self, value: object) -> object:
        """A parsed document: letters that were written as escapes are themselves again."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.json(inner) for inner in value]
            case dict():
                return {self.text(key): self.json(inner) for key, inner in value.items()}
            case _:
                return value

    def body(self, data: bytes, *, cut: bool = False) -> bytes:
        """`cut`: `data` ends where it was cut, perhaps within a secret."""
        for form in self._bytes:
            data = data.replace(form, MARK.encode())
        for pattern in self._mixed_bytes:
            data = pattern.sub(MARK.encode(), data)
        if cut:
            for form in self._bytes:
                for length in range(len(form) - 1, _SHORTEST_TAIL - 1, -1):
                    if data.endswith(form[:length]):
                        return data[:-length] + MARK.encode()
        return data


def _parts(secret: str) -> set[str]:
    """Of "Bearer abc" also the last word: an echo may show the token alone."""
    return {part for part in (secret, *secret.split()) if len(part) >= MIN_LENGTH}


def _spelt(part: str) -> str:
    """A pattern for `part` with each sign as it is or escaped, as writers do with more or fewer signs:
    `\\/`, `\\u002B`, `%2f`, `&#43;`."""
    return "".join(each if each.isalnum() else f"(?i:{'|'.join(_escapes(each))})" for each in part)


def _escapes(sign: str) -> Iterable[str]:
    code = ord(sign)
    yield re.escape(sign)
    yield rf"\\{re.escape(sign)}"
    yield rf"\\u00{code:02x}|%(?:25)?{code:02x}|&#(?:x0*{code:x}|0*{code});"
    if code in codepoint2name:
        yield f"&{codepoint2name[code]};"
    if sign == " ":
        yield r"\+"


def _forms(secret: str) -> Iterable[str]:
    for part in _parts(secret):
        raw = part.encode()
        yield from (part, quote(part, safe=""), quote(part), quote_plus(part), json.dumps(part)[1:-1])
        yield from (html.escape(part), raw.hex(), raw.hex().upper())
        yield from _base64(raw)
        if part != secret:
            yield from _decoded(part)


def _base64(raw: bytes) -> Iterable[str]:
    """In any place of a larger text: of the three alignments what no neighbour can change."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        stable = encoded[(0, 2, 3)[before] : len(encoded) - (1 if (before + len(raw)) % 3 else 0)]
        if len(stable) >= MIN_LENGTH:
            yield stable
            yield stable.replace("+", "-").replace("/", "_")


def _decoded(part: str) -> Iterable[str]:
    """Of "Basic dXNlcjpwYXNz" the pair and the password."""
    try:
        pair = base64.b64decode(part, validate=True).decode("ascii")
    except ValueError:
        return
    for piece in (pair, pair.partition(":")[2]):
        if len(piece) >= MIN_LENGTH and piece.isprintable():
            yield piece
