"""Editing a text file: exact replacements, all or none, and what has changed as a diff."""

import json
import os

import _file_ops as ops

EDIT_LIMIT = 4 * 1024 * 1024
DIFF_LIMIT = 128 * 1024
DIFF_LINES = 20_000


def edit(request):
    """All edits or none. They come as JSON on the input; the diff goes to the output."""
    edits = json.loads(read_input())
    fd, info = ops.open_regular(request["path"])
    path = ops.target(request["path"], (ops.WORKSPACE,))
    if info.st_size > EDIT_LIMIT:
        raise ValueError(f"the file has {info.st_size} bytes; at most {EDIT_LIMIT} can be edited")
    with open(fd, "rb") as file:
        raw = file.read(EDIT_LIMIT + 1)
    try:
        before = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start}); write the file instead") from None
    after, count = before, 0
    for number, each in enumerate(edits):
        after, replaced = _replace(after, each, number)
        count += replaced
    with ops.Replacement(path) as file:
        file.write(after.encode())
    diff = _diff(before, after, request["path"]).encode()
    ops.put_out(diff[:DIFF_LIMIT])
    return {"replacements": count, "size": len(after.encode()), "diff_cut": len(diff) > DIFF_LIMIT}


def read_input():
    parts = []
    while data := os.read(0, ops.CHUNK):
        parts.append(data)
    return b"".join(parts)


def _replace(text, each, number):
    old, new = each["old"], each["new"]
    count = text.count(old)
    where = f"edits[{number}].old"
    if count == 0:
        ends = "; the file has CRLF line ends" if "\r\n" in text and "\n" in old else ""
        raise ValueError(f"{where}: does not occur in the file{ends}; no edit was made")
    if count > 1 and not each["all"]:
        lines = ", ".join(str(line) for line in _lines_of(text, old, 5))
        raise ValueError(f"{where}: occurs {count} times (lines {lines}), must be unique; no edit was made")
    return text.replace(old, new), count


def _lines_of(text, old, most):
    at, line = 0, 1
    while most > 0 and (found := text.find(old, at)) >= 0:
        line += text.count("\n", at, found)
        yield line
        line += text.count("\n", found, found + len(old))
        at = found + len(old)
        most -= 1


def _diff(before, after, name):
    import difflib

    old, new = before.splitlines(True), after.splitlines(True)
    # What begins or ends alike need not be compared, which takes long in large files.
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    first, last = max(0, start - 3), max(0, end - 3)
    old, new = old[first : len(old) - last], new[first : len(new) - last]
    if len(old) + len(new) > DIFF_LINES:
        return f"--- {name}\n+++ {name}\n(too much has changed for a diff)\n"
    lines = difflib.unified_diff(old, new, name, name)
    return "".join(_moved(line, first) if line.startswith("@@") else _whole(line) for line in lines)


def _whole(line):
    return line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _moved(hunk, lines):
    """A hunk's head for the whole file: that many lines further down."""
    parts = hunk.split(" ")
    for index in (1, 2):
        start, comma, count = parts[index][1:].partition(",")
        parts[index] = f"{parts[index][0]}{int(start) + lines}{comma}{count}"
    return " ".join(parts)
