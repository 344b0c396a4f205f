"""Names of what can be read later. Pure.

    run://{id}/stdout            all that a run wrote to a stream
    sandbox://{holder}/{path}    a file: of a session, or of a one-shot run

A path is relative to /workspace, bytes of a program's choice in percent-encoding; `canonical` has the
one spelling of it, which is a key and never a path of the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import AfterValidator

from sandbox_server.execution.models import StreamName
from sandbox_server.text import on_one_line

MAX_PATH = 1024
_STREAMS: dict[str, StreamName] = {"stdout": "stdout", "stderr": "stderr"}
_ID = re.compile(r"[0-9a-f]{32}")
_QUOTED = re.compile(r"[A-Za-z0-9._~/%-]+")


@dataclass(frozen=True, slots=True)
class StreamUri:
    run: str
    stream: StreamName


@dataclass(frozen=True, slots=True)
class FileUri:
    holder: str
    path: str
    """Canonical."""


def canonical(quoted: str) -> str:
    """The one spelling of a percent-encoded relative path. Raises ValueError if it is none."""
    if len(quoted) > 3 * MAX_PATH or not _QUOTED.fullmatch(quoted):
        raise ValueError("not a percent-encoded path")
    raw = unquote_to_bytes(quoted)
    parts = raw.split(b"/")
    if b"\0" in raw or len(raw) > MAX_PATH or any(part in (b"", b".", b"..") for part in parts):
        raise ValueError("not a path below the workspace")
    if any(len(part) > 255 for part in parts):
        raise ValueError("a name is longer than 255 bytes")
    return quote(raw)


def _is_canonical(quoted: str) -> str:
    if canonical(quoted) != quoted:
        raise ValueError("not the canonical spelling")
    return quoted


QuotedPath = Annotated[str, AfterValidator(_is_canonical)]


def quote(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="/")


def plain(quoted: str) -> str:
    """The path as Python's `os` functions take it: bytes that are no UTF-8 as lone surrogates."""
    return unquote_to_bytes(quoted).decode("utf-8", "surrogateescape")


def shown(quoted: str) -> str:
    """For people and models; not to be taken for a path."""
    text = unquote_to_bytes(quoted).decode("utf-8", "replace")
    return on_one_line(text)


def stream_uri(run: str, stream: StreamName) -> str:
    return f"run://{run}/{stream}"


def file_uri(holder: str, path: str) -> str:
    return f"sandbox://{holder}/{path}"


def parse(uri: str) -> StreamUri | FileUri | None:
    """What `uri`, without a query, names; None if it can't name anything of ours."""
    scheme, _, rest = uri.partition("://")
    id, _, path = rest.partition("/")
    if not _ID.fullmatch(id):
        return None
    if scheme == "run":
        return StreamUri(id, _STREAMS[path]) if path in _STREAMS else None
    if scheme != "sandbox":
        return None
    try:
        return FileUri(id, canonical(path))
    except ValueError:
        return None
