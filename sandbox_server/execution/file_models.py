"""File operations of a session, and what they answer: plain frozen values.

A path is relative to the workspace, or absolute below it or `/tmp`; only the workspace can be
written. Sizes in bytes, times in seconds since the epoch. Names and texts in answers are safe for
JSON; `escaped` says that a name is shown with escapes, because it can't be typed as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sandbox_server.engines.profile import KIB, MIB
from sandbox_server.execution.models import SessionInfo

EntryType = Literal["file", "directory", "symlink", "other"]

DEFAULT_READ = 64 * KIB
MAX_READ = 4 * MIB
MAX_WRITE = 8 * MIB
MAX_PAGE = 1000
MAX_MATCHES = 200
MAX_CONTEXT = 10
MAX_EDITS = 100
MAX_PATTERN = 1000


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Bytes from `offset` on, or, if `line` (from 1) is given, `lines` lines from there (None: all).

    At most `length` bytes either way.
    """

    path: str
    offset: int = 0
    length: int = DEFAULT_READ
    line: int | None = None
    lines: int | None = None


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Replaces the file at once or not at all; with `append` adds to it, with `at` only if the file
    has exactly that size, so that a chunk that is sent twice does no harm. Parents are made."""

    path: str
    content: bytes
    append: bool = False
    at: int | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class ListFiles:
    """A page of a directory in the order of names. `glob` is matched against the name, or if it
    has a slash against the path below the directory; `**` spans directories."""

    path: str = "."
    recursive: bool = False
    glob: str | None = None
    cursor: str | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True)
class DeleteFile:
    path: str
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class CreateDirectory:
    path: str


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` must occur exactly once, unless `all` are meant."""

    old: str
    new: str
    all: bool = False


@dataclass(frozen=True, slots=True)
class EditFile:
    """Edits of a text file, each in the result of those before it; all or none are made."""

    path: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class MoveFile:
    path: str
    to: str
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class CopyFile:
    path: str
    to: str
    overwrite: bool = False
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class StatFile:
    path: str


@dataclass(frozen=True, slots=True)
class SearchFiles:
    """Lines that match a regular expression (Python's), in one file or all below a directory."""

    path: str
    pattern: str
    glob: str | None = None
    ignore_case: bool = False
    context: int = 0
    cursor: str | None = None
    limit: int = 50


FileOperation = (
    ReadFile
    | WriteFile
    | ListFiles
    | DeleteFile
    | CreateDirectory
    | EditFile
    | MoveFile
    | CopyFile
    | StatFile
    | SearchFiles
)


def size_of(operation: FileOperation) -> int:
    """Bytes, nearly, that a call keeps in our memory until it ends."""
    match operation:
        case WriteFile(content=content):
            return len(content)
        case EditFile(edits=edits):
            return sum(len(edit.old) + len(edit.new) for edit in edits)
        case _:
            return 0


@dataclass(frozen=True, slots=True)
class FileContent:
    """`offset` is where `data` begins, `size` that of the whole file. `total_lines` is known when
    lines were asked for. There is more if `offset + len(data) < size`."""

    data: bytes
    offset: int
    size: int
    total_lines: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """`size` is that of the whole file now."""

    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """`path` is relative to what was listed, or for `stat` as it was asked."""

    path: str
    escaped: bool
    type: EntryType
    size: int
    mode: int
    modified: float
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """`cursor` goes on with the next page; None: there is none. `skipped` directories could not be read."""

    entries: tuple[Entry, ...]
    cursor: str | None
    skipped: int


@dataclass(frozen=True, slots=True)
class Match:
    """`text` is the line, or of a long one (`cut`) what is around the match."""

    path: str
    escaped: bool
    line: int
    column: int
    text: str
    cut: bool
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matches:
    """`files` were searched for this page, `binary` ones left out."""

    matches: tuple[Match, ...]
    files: int
    binary: int
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Edited:
    """`diff` is unified, in text that is safe to show."""

    diff: str
    diff_cut: bool
    replacements: int
    size: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many entries are gone."""

    count: int


@dataclass(frozen=True, slots=True)
class DirectoryMade:
    """`created` is false if it was there already."""

    created: bool


@dataclass(frozen=True, slots=True)
class Moved:
    pass


@dataclass(frozen=True, slots=True)
class Copied:
    """`skipped` are entries that are neither files, directories nor links."""

    files: int
    bytes: int
    skipped: int


FileResult = (
    FileContent | Written | Listing | Entry | Matches | Edited | Deleted | DirectoryMade | Moved | Copied
)


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What an operation gave, and the session that it was made in."""

    result: FileResult
    session: SessionInfo
