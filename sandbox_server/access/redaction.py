"""Takes secrets out of what a server sends back: as they are, and in the spellings that echoes have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sandbox_server.access.spellings import Spellings

MARK = "[secret]"


class Redactor:
    """Of the secrets that one request carried. A host that is sent a secret can always hide it in what it
    answers; this is against echoes, not against a hostile host, which has the secret anyway.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = self._known = Spellings(secrets)
        self._forms = known.literal
        self._bytes = [form.encode() for form in known.literal]
        self._mixed = [re.compile(each) for each in known.patterns]
        self._mixed_bytes = [re.compile(each.encode()) for each in known.patterns]

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
        tail = self._known.tail(data) if cut else 0
        return data[:-tail] + MARK.encode() if tail else data


class StreamRedactor:
    """The same for a body that is passed on as it comes, by as many stars as each spelling is long, for its
    length may have been told already. However it is cut into pieces, the same comes out."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = self._known = Spellings(secrets)
        self._forms = [form.encode() for form in known.literal]
        self._patterns = [re.compile(each.encode()) for each in known.patterns]
        self._longest = known.longest
        self._held = b""
        self._covered = 0
        """So many bytes of what is held belong to a spelling that began before them."""

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return "StreamRedactor()"

    def whole(self, data: bytes) -> bytes:
        return _starred(data, self._found(data))

    def feed(self, data: bytes) -> bytes:
        """What can be let through by now: of what begins later the end may still come."""
        data = self._held + data
        sure = max(0, len(data) - self._longest + 1) if self._forms else len(data)
        found = [(start, end) for start, end in self._found(data) if start < sure]
        reach = max([self._covered, *(end for _, end in found)])
        passed = _starred(data, [(0, self._covered), *found])[:sure]
        self._held, self._covered = data[sure:], max(0, reach - sure)
        return passed

    def end(self, *, cut: bool = False) -> bytes:
        """`cut`: nobody has said that the body ends here, so it may be within a secret."""
        held, covered, self._held, self._covered = self._held, self._covered, b"", 0
        tail = self._known.tail(held) if cut else 0
        return _starred(held, [(0, covered), *self._found(held), (len(held) - tail, len(held))])

    def _found(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where spellings lie, those that overlap too."""
        for form in self._forms:
            start = data.find(form)
            while start >= 0:
                yield start, start + len(form)
                start = data.find(form, start + 1)
        for pattern in self._patterns:
            match = pattern.search(data)
            while match:
                yield match.span()
                match = pattern.search(data, match.start() + 1)


def _starred(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    masked = None
    for start, end in spans:
        if start < end:
            masked = bytearray(data) if masked is None else masked
            masked[start:end] = b"*" * (min(end, len(data)) - start)
    return data if masked is None else bytes(masked)
