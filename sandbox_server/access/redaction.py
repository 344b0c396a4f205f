"""Takes secrets out of what a server sends back: as they are, and in the spellings that echoes have."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
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
        forms = {form for secret in secrets for form in _forms(secret)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._bytes = [form.encode() for form in self._forms]

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return "Redactor()"

    def text(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MARK)
        return text

    def body(self, data: bytes, *, cut: bool = False) -> bytes:
        """`cut`: `data` ends where it was cut, perhaps within a secret."""
        for form in self._bytes:
            data = data.replace(form, MARK.encode())
        if cut:
            for form in self._bytes:
                for length in range(len(form) - 1, _SHORTEST_TAIL - 1, -1):
                    if data.endswith(form[:length]):
                        return data[:-length] + MARK.encode()
        return data


def _forms(secret: str) -> Iterable[str]:
    # "Bearer abc": an echo may show the token alone.
    for part in {secret, *secret.split()}:
        if len(part) < MIN_LENGTH:
            continue
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
