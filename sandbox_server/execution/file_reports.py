"""What a sandbox says of a file operation. Hostile: strict in form, bounded, cleaned before use."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox_server.errors import Busy, InvalidRequest, LimitExceeded, NotFound, SandboxServerError
from sandbox_server.execution.file_models import Entry, EntryType, Match
from sandbox_server.execution.paths import IN_CODE
from sandbox_server.text import make_visible

Size = Annotated[int, Field(ge=0, lt=1 << 63)]
Cursor = Annotated[str, Field(pattern=r"^[A-Za-z0-9_=-]{1,12000}$")]

_CURSOR = re.compile(r"[A-Za-z0-9_=-]{1,12000}")
_TOO_MUCH = {
    "ENOSPC": "the workspace is full",
    "EDQUOT": "the workspace is full",
    "EFBIG": "the file is larger than files may be",
    "ENOMEM": "the operation takes too much memory",
    "ECANCELED": "the operation was killed in the sandbox, by its memory limit or by a program",
}
_WRONG = {
    "EEXIST": "exists already",
    "EISDIR": "is a directory",
    "ENOTDIR": "is not a directory, or a part of its path is not",
    "ENOTEMPTY": "is a directory that is not empty",
    "EACCES": "can't be opened: permission denied",
    "EPERM": "can't be changed: permission denied",
    "ELOOP": "is a loop of links",
    "ENXIO": "is not a regular file",
}
_HINTS = {
    "EEXIST": "pass overwrite, or use another path",
    "EISDIR": "name a file, or pass recursive where the operation has it",
    "ENOTEMPTY": "pass recursive to delete all that is in it",
}


class Report(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class Failure(Report):
    error: Annotated[str, Field(max_length=40)]
    message: Annotated[str, Field(max_length=4096)]


class ReadReport(Report):
    offset: Size
    size: Size
    total_lines: Size | None = None


class SizeReport(Report):
    size: Size


class EditReport(Report):
    replacements: Size
    size: Size
    diff_cut: bool


class DeleteReport(Report):
    deleted: Size


class CreateReport(Report):
    created: bool


class CopyReport(Report):
    files: Size
    bytes: Size
    skipped: Size = 0


class EntryReport(Report):
    path: str = ""
    escaped: bool = False
    type: EntryType
    size: Size
    mode: Size
    modified: float
    target: str | None = None

    def entry(self, path: str | None = None) -> Entry:
        name, escaped = (path, False) if path is not None else shown_name(self.path, self.escaped)
        target = None if self.target is None else shown_name(self.target, False)[0]
        return Entry(name, escaped, self.type, self.size, self.mode, self.modified, target)


class ListReport(Report):
    entries: tuple[EntryReport, ...]
    cursor: Cursor | None
    skipped: Size


class MatchReport(Report):
    path: str
    escaped: bool
    line: Size
    column: Size
    text: str
    cut: bool
    before: tuple[str, ...]
    after: tuple[str, ...]

    def match(self) -> Match:
        name, escaped = shown_name(self.path, self.escaped)
        before, after = (tuple(map(make_visible, lines)) for lines in (self.before, self.after))
        return Match(name, escaped, self.line, self.column, make_visible(self.text), self.cut, before, after)


class SearchReport(Report):
    matches: tuple[MatchReport, ...]
    files: Size
    binary: Size
    cursor: Cursor | None


ReportT = TypeVar("ReportT", bound=Report)


def parse(kind: type[ReportT], report: dict[str, Any] | bytes) -> ReportT:
    """Raises InvalidRequest for what is no such report: only a program that meddles can cause that."""
    try:
        if isinstance(report, bytes | bytearray):
            return kind.model_validate_json(report)
        return kind.model_validate(report)
    except ValidationError:
        raise meddled() from None


def meddled() -> SandboxServerError:
    return InvalidRequest(
        "the sandbox gave a nonsensical answer to a file operation",
        hint="a program in it may be meddling; end it, or use a new session",
    )


def check_cursor(cursor: str | None) -> None:
    """Raises InvalidRequest for a cursor that was never given out."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise InvalidRequest("cursor: is not one of this server's", hint="begin again without a cursor")


def shown_name(name: str, escaped: bool) -> tuple[str, bool]:
    """A name with escapes for what can't be shown or typed, and whether it has any."""
    if name.isprintable():
        return name, escaped
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return shown, True


def failure(path: str, report: dict[str, Any]) -> SandboxServerError:
    """What a refusal means to the caller. `path` has been checked, the rest has not."""
    try:
        facts = Failure.model_validate(report)
    except ValidationError:
        return meddled()
    name = repr(path)
    if facts.error == "ENOENT":
        hint = IN_CODE if "\\" in path else "list the directory to see what does"
        return NotFound(f"{name} does not exist in the session", hint=hint)
    if facts.error in _TOO_MUCH:
        return LimitExceeded(
            f"{name}: {_TOO_MUCH[facts.error]}", hint="delete files or do it in smaller parts"
        )
    if facts.error == "EAGAIN":
        return Busy(
            "the sandbox can't start another process now",
            retry_after=1.0,
            hint="programs in the session hold all that it may have",
        )
    why = _WRONG.get(facts.error) or make_visible(facts.message)
    return InvalidRequest(f"{name}: {why}", hint=_HINTS.get(facts.error, "nothing was changed"))
