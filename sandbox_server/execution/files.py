"""File operations in a sandbox, by its caller: from a value to the wire and from a report to a value.

All work is done by a short-lived child in the sandbox (`images/runner/_file_ops.py`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable
from typing import Any

from sandbox_server.errors import InvalidRequest, LimitExceeded
from sandbox_server.execution import file_models as models
from sandbox_server.execution import file_reports as reports
from sandbox_server.execution.file_reports import parse
from sandbox_server.execution.paths import WORKSPACE, readable_path, workspace_path
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.transfers import Sink, Transfer, whole
from sandbox_server.text import make_visible

SECONDS = 20.0
STREAM_SECONDS = 120.0
MAX_DOCUMENT = 4 * 1024 * 1024


class Files:
    """The files of one sandbox. Works while code is running there.

    Everything here raises InvalidRequest for a path or an argument that can't be right, NotFound,
    LimitExceeded if there is no room or time for it, and SandboxLost.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def perform(self, operation: models.FileOperation) -> models.FileResult:
        """Carry out any operation."""
        match operation:
            case models.ReadFile():
                data = bytearray()
                report = await self.read_into(operation, _collector(data))
                return models.FileContent(bytes(data), report.offset, report.size, report.total_lines)
            case models.WriteFile():
                return await self.write_from(operation, whole(operation.content))
            case models.ListFiles():
                return await self._list(operation)
            case models.SearchFiles():
                return await self._search(operation)
            case models.EditFile():
                return await self._edit(operation)
            case models.StatFile(path=path):
                facts = await self._ask("stat", readable_path(path))
                return parse(reports.EntryReport, facts).entry(path)
            case models.DeleteFile(path=path, recursive=recursive):
                facts = await self._ask("delete", workspace_path(path), recursive=recursive)
                return models.Deleted(parse(reports.DeleteReport, facts).deleted)
            case models.CreateDirectory(path=path):
                facts = await self._ask("create_dir", workspace_path(path))
                return models.DirectoryMade(parse(reports.CreateReport, facts).created)
            case models.MoveFile(path=path, to=to, overwrite=overwrite):
                await self._ask("move", workspace_path(path), to=workspace_path(to), overwrite=overwrite)
                return models.Moved()
            case models.CopyFile():
                return await self._copy(operation)

    async def read_into(self, operation: models.ReadFile, sink: Sink) -> reports.ReadReport:
        """Give a file to `sink` piece by piece; while that works the sandbox is held back.

        `length` may be as large as the caller has room for; `line` and `lines` as for `perform`.
        """
        path = readable_path(operation.path)
        options = {name: getattr(operation, name) for name in ("offset", "length", "line", "lines")}
        if operation.offset < 0 or operation.length < 0:
            raise InvalidRequest("offset and length must not be negative")
        request = {"op": "read", "path": path, **options}
        transfer = Transfer(request, limit=operation.length, sink=sink)
        return parse(reports.ReadReport, await self._carry_out(transfer, STREAM_SECONDS))

    async def write_from(self, operation: models.WriteFile, source: AsyncIterable[bytes]) -> models.Written:
        """Write what `source` gives instead of the operation's content, as fast as the sandbox takes it."""
        request = {
            "op": "write",
            "path": workspace_path(operation.path),
            "append": operation.append or operation.at is not None,
            "at": operation.at,
            "mode": operation.mode,
        }
        transfer = Transfer(request, source=source)
        report = await self._carry_out(transfer, STREAM_SECONDS)
        return models.Written(parse(reports.SizeReport, report).size)

    async def _list(self, operation: models.ListFiles) -> models.Listing:
        reports.check_cursor(operation.cursor)
        options = {"recursive": operation.recursive, "glob": operation.glob, "cursor": operation.cursor}
        page = parse(
            reports.ListReport,
            await self._document("list", readable_path(operation.path), limit=operation.limit, **options),
        )
        if len(page.entries) > operation.limit:
            raise reports.meddled()
        return models.Listing(tuple(each.entry() for each in page.entries), page.cursor, page.skipped)

    async def _search(self, operation: models.SearchFiles) -> models.Matches:
        reports.check_cursor(operation.cursor)
        page = parse(
            reports.SearchReport,
            await self._document(
                "search",
                readable_path(operation.path),
                pattern=operation.pattern,
                glob=operation.glob,
                ignore_case=operation.ignore_case,
                context=operation.context,
                cursor=operation.cursor,
                limit=operation.limit,
            ),
        )
        if len(page.matches) > operation.limit:
            raise reports.meddled()
        matches = tuple(each.match() for each in page.matches)
        return models.Matches(matches, page.files, page.binary, page.cursor)

    async def _edit(self, operation: models.EditFile) -> models.Edited:
        edits = [{"old": edit.old, "new": edit.new, "all": edit.all} for edit in operation.edits]
        if not edits or not all(edit.old for edit in operation.edits):
            raise InvalidRequest("edits: must not be empty, nor may the text to replace")
        diff = bytearray()
        transfer = Transfer(
            {"op": "edit", "path": workspace_path(operation.path)},
            limit=MAX_DOCUMENT,
            sink=_collector(diff),
            source=whole(json.dumps(edits).encode()),
        )
        report = parse(reports.EditReport, await self._carry_out(transfer, SECONDS))
        text = make_visible(diff.decode("utf-8", "replace"))
        return models.Edited(text, report.diff_cut, report.replacements, report.size)

    async def _copy(self, operation: models.CopyFile) -> models.Copied:
        options = {"overwrite": operation.overwrite, "recursive": operation.recursive}
        facts = await self._ask(
            "copy", readable_path(operation.path), to=workspace_path(operation.to), **options
        )
        report = parse(reports.CopyReport, facts)
        return models.Copied(report.files, report.bytes, report.skipped)

    async def _ask(self, op: str, path: str, **options: Any) -> dict[str, Any]:
        """An operation that gives nothing but its report."""
        return await self._carry_out(Transfer({"op": op, "path": path, **options}), SECONDS)

    async def _document(self, op: str, path: str, **options: Any) -> bytes:
        """An operation that gives a JSON document."""
        document = bytearray()
        request = {"op": op, "path": path, **options}
        await self._carry_out(Transfer(request, limit=MAX_DOCUMENT, sink=_collector(document)), SECONDS)
        return bytes(document)

    async def _carry_out(self, transfer: Transfer, seconds: float) -> dict[str, Any]:
        path = str(transfer.request["path"]).removeprefix(WORKSPACE + "/")
        report = await self._sandbox.transfer(transfer, seconds)
        if report is None and transfer.over:
            raise reports.meddled()
        if report is None:
            raise LimitExceeded(
                f"{transfer.request['op']} of {path!r} took longer than {seconds:g} s and was ended",
                hint="do it in smaller parts; in a search, use a simpler pattern",
            )
        if report.get("ok") is not True:
            raise reports.failure(path, report)
        return report


def _collector(data: bytearray) -> Sink:
    async def keep(piece: bytes) -> None:
        data.extend(piece)

    return keep
