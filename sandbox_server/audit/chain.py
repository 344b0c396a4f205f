"""One line of the log, and how it holds to the one before.

A line is a JSON object in ASCII that ends with `"prev_hash": P, "hash": H`: P is the hash of the line
before, H the SHA-256 of this line's bytes up to the comma before `"hash"`. So each line vouches for all
before it. There is no key: who can write the file can also forge everything from some line on. The
last hash (the head), kept elsewhere, is what shows that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

GENESIS: Final = "0" * 64
"""What the first line of all names as the hash before it."""
MAX_LINE: Final = 256 * 1024

_END: Final = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_END_LENGTH: Final = len(',"hash":""}') + 64
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class Broken(ValueError):
    """A line that is not as it was written; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Link:
    """A line that is whole: its number, the hash before it, its own, and what it says."""

    seq: int
    previous: str
    hash: str
    fields: Mapping[str, object]


def seal(fields: Mapping[str, object], seq: int, previous: str) -> tuple[bytes, str]:
    """The line that says `fields`, newline included, and its hash."""
    whole = {**fields, "seq": seq, "prev_hash": previous}
    whole.pop("hash", None)
    text = json.dumps(whole, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # DEL is the one control character that JSON leaves as it is.
    body = text[:-1].replace("\x7f", "\\u007f").encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode(), digest


def unseal(line: bytes) -> Link:
    """Of a line without its newline. Raises Broken."""
    end = _END.fullmatch(line[-_END_LENGTH:])
    if end is None or len(line) > MAX_LINE:
        raise Broken("not a line of this log")
    body, digest = line[:-_END_LENGTH], end[1].decode()
    if hashlib.sha256(body).hexdigest() != digest:
        raise Broken("the line was changed: its hash is not that of its content")
    try:
        fields = json.loads(body + b"}")
    except (ValueError, RecursionError):
        raise Broken("not a line of this log") from None
    seq, previous = fields.pop("seq", None), fields.pop("prev_hash", None)
    if type(seq) is not int or seq < 1 or not isinstance(previous, str) or not _HASH.fullmatch(previous):
        raise Broken("not a line of this log: it has no number or no hash of the line before")
    return Link(seq, previous, digest, fields)
