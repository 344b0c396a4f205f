"""What a file operation gave as a tool result: structured for programs, brief text for models, images
as images. Ours comes first in the text; what a program has written comes last."""

from __future__ import annotations

import base64
from typing import Any

import mcp_types as types

from sandbox_server.execution import file_models as models
from sandbox_server.protocol.text import visible

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "operation": {"type": "string"},
        "path": {"type": "string"},
        "result": {"type": "object"},
        "session": {"type": "object"},
    },
}


def to_tool_result(
    operation: models.FileOperation, answer: models.FileAnswer, *, name: str, as_base64: bool = False
) -> types.CallToolResult:
    """`as_base64`: the caller wants bytes whatever they are."""
    path = visible(operation.path)
    images: list[types.ContentBlock] = []
    facts, headline, body = _describe(answer.result, images, as_base64)
    session = answer.session
    lines = [f"{name} {path}: {headline}"]
    if session.state in ("reset", "lost"):
        lines.append(f"session: {session.state} ({visible(session.note)})")
    if body:
        lines += ["Content (untrusted data):", body]
    structured = {
        "operation": name,
        "path": path,
        "result": facts,
        "session": {
            "id": session.id,
            "state": session.state,
            "expires_in_seconds": session.expires_in,
            "note": visible(session.note),
        },
    }
    text = types.TextContent(text="\n".join(lines))
    return types.CallToolResult(content=[text, *images], structured_content=structured)


def _describe(
    result: models.FileResult, images: list[types.ContentBlock], as_base64: bool
) -> tuple[dict[str, Any], str, str]:
    """(facts, a line of ours, what a program may have written)."""
    match result:
        case models.FileContent():
            return _content(result, images, as_base64)
        case models.Listing():
            return _listing(result)
        case models.Matches():
            return _matches(result)
        case models.Written(size=size):
            return {"size": size}, f"{size:,} bytes", ""
        case models.Edited():
            facts = {
                "replacements": result.replacements,
                "size": result.size,
                "diff": result.diff,
                "diff_cut": result.diff_cut,
            }
            return facts, f"{result.replacements} replaced", result.diff
        case models.Entry():
            facts = _entry(result)
            return facts, f"{result.type}, {result.size:,} bytes, mode {facts['mode']}", ""
        case models.Deleted(count=count):
            return {"deleted": count}, f"{count} deleted", ""
        case models.DirectoryMade(created=created):
            return {"created": created}, "created" if created else "was there already", ""
        case models.Copied():
            facts = {"files": result.files, "bytes": result.bytes, "skipped": result.skipped}
            return facts, f"{result.files} files, {result.bytes:,} bytes", ""
        case models.Moved():
            return {"moved": True}, "moved", ""


def _content(
    result: models.FileContent, images: list[types.ContentBlock], as_base64: bool
) -> tuple[dict[str, Any], str, str]:
    text, used = (None, len(result.data)) if as_base64 else _as_text(result)
    end = result.offset + used
    more = end < result.size and used > 0
    facts: dict[str, Any] = {
        "offset": result.offset,
        "bytes": used,
        "size": result.size,
        "next_offset": end if more else None,
    }
    if result.total_lines is not None:
        facts["total_lines"] = result.total_lines
    headline = f"bytes {result.offset:,} to {end:,} of {result.size:,}"
    mime = _image(result)
    if text is not None:
        shown = visible(text)
        facts |= {"encoding": "text", "text": shown, "escaped": shown != text}
        return facts, headline, shown
    encoded = base64.b64encode(result.data).decode("ascii")
    if mime and not as_base64:
        images.append(types.ImageContent(data=encoded, mime_type=mime))
        return {**facts, "encoding": "image", "mime": mime, "content": 1}, f"{headline}, {mime}", ""
    return {**facts, "encoding": "base64", "base64": encoded}, f"{headline}, base64 in the result", ""


def _as_text(result: models.FileContent) -> tuple[str | None, int]:
    """The text and how many bytes of the data it is: a character that the end has split comes with
    the next piece. None if it is no text."""
    data = result.data
    if b"\0" in data:
        return None, len(data)
    for cut in range(min(4, len(data) + 1) if result.offset + len(data) < result.size else 1):
        piece = data[: len(data) - cut]
        try:
            return piece.decode("utf-8"), len(piece)
        except UnicodeDecodeError:
            continue
    return None, len(data)


def _image(result: models.FileContent) -> str | None:
    if result.offset or len(result.data) < result.size:
        return None
    return (
        "image/png"
        if result.data.startswith(_PNG)
        else "image/jpeg"
        if result.data.startswith(_JPEG)
        else None
    )


def _listing(result: models.Listing) -> tuple[dict[str, Any], str, str]:
    facts = {
        "entries": [_entry(entry) for entry in result.entries],
        "cursor": result.cursor,
        "skipped": result.skipped,
    }
    lines = [f"{entry.type[:4]:4} {entry.size:>10} {visible(entry.path)}" for entry in result.entries]
    return facts, f"{len(result.entries)} entries{_more(result.cursor)}", "\n".join(lines)


def _entry(entry: models.Entry) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": visible(entry.path),
        "type": entry.type,
        "size": entry.size,
        "mode": f"{entry.mode:03o}",
        "modified": entry.modified,
    }
    if entry.escaped:
        facts["escaped"] = True
    if entry.target is not None:
        facts["target"] = visible(entry.target)
    return facts


def _matches(result: models.Matches) -> tuple[dict[str, Any], str, str]:
    found = []
    lines: list[str] = []
    for match in result.matches:
        facts: dict[str, Any] = {"path": visible(match.path), "line": match.line, "column": match.column}
        facts["text"] = visible(match.text)
        if match.before or match.after:
            facts |= {"before": list(map(visible, match.before)), "after": list(map(visible, match.after))}
            lines += [f"{match.path}- {line}" for line in facts["before"]]
        if match.cut:
            facts["cut"] = True
        if match.escaped:
            facts["escaped"] = True
        found.append(facts)
        lines.append(f"{facts['path']}:{match.line}: {facts['text']}")
        lines += [f"{match.path}- {line}" for line in facts.get("after", ())]
    whole = {"matches": found, "cursor": result.cursor, "files": result.files, "binary": result.binary}
    head = f"{len(found)} matches in {result.files} files searched{_more(result.cursor)}"
    return whole, head, "\n".join(lines)


def _more(cursor: str | None) -> str:
    return "" if cursor is None else ", more with `cursor`"
