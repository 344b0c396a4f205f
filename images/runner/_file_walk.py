"""Trees: listing, searching and removing them, page by page and within a time of their own.

Order is by the bytes of the path's components, a directory before what is in it. A cursor is the
place that the page before ended at, so pages stay right while files come and go.
"""

import base64
import json
import os
import stat
import time

import _file_ops as ops

SECONDS = 8.0
"""Then a page ends where it is, and its cursor goes on from there."""
PAGE_BYTES = 256 * 1024
MAX_DEPTH = 100
LINE = 64 * 1024
SHOWN = 500
PROBE = 8 * 1024


class Walk:
    """The entries below `top`, after the path `after` (bytes), as (path in bytes, stat)."""

    def __init__(self, top, after, *, recursive):
        self.top = os.fsencode(top)
        self.after = after.split(b"/") if after else []
        self.recursive = recursive
        self.skipped = 0
        self.place = after
        self.until = time.monotonic() + SECONDS

    @property
    def over(self):
        return time.monotonic() > self.until

    def __iter__(self):
        return self._directory(b"", self.after, 0)

    def _directory(self, prefix, after, depth):
        for name in self._names(prefix, after):
            path = prefix + name
            seen = bool(after) and name == after[0]
            try:
                info = os.lstat(os.path.join(self.top, path))
            except FileNotFoundError:
                continue  # gone meanwhile
            except OSError:
                self.skipped += 1  # too deep for any path
                continue
            if not seen:
                self.place = path
                yield path, info
            if self.recursive and stat.S_ISDIR(info.st_mode):
                yield from self._directory(path + b"/", after[1:] if seen else [], depth + 1)

    def _names(self, prefix, after):
        """Sorted. Only of the top must it be known why there are none."""
        if prefix.count(b"/") > MAX_DEPTH:
            self.skipped += 1
            return []
        try:
            names = os.listdir(os.path.join(self.top, prefix))
        except OSError:
            if not prefix:
                raise
            self.skipped += 1
            return []
        if after:
            names = [name for name in names if name >= after[0]]
        names.sort()
        return names


def text(name):
    """A name as text, and whether it had to be escaped for that. The host looks again."""
    try:
        return name.decode("utf-8"), False
    except UnicodeDecodeError:
        return name.decode("utf-8", "backslashreplace"), True


def matcher(pattern):
    """Whether a path (bytes) matches a glob: by its last part, or whole if the pattern has a slash."""
    if not pattern:
        return lambda path: True
    import glob
    import re

    compiled = re.compile(glob.translate(pattern, recursive=True, include_hidden=True))
    whole = "/" in pattern

    def match(path):
        return compiled.match(os.fsdecode(path if whole else path.rpartition(b"/")[2])) is not None

    return match


def as_json(value):
    return json.dumps(value, ensure_ascii=False).encode()


def pack(*parts):
    return base64.urlsafe_b64encode(b"\0".join(parts)).decode()


def unpack(cursor, count):
    try:
        parts = base64.urlsafe_b64decode(cursor).split(b"\0") if cursor else [b""] * count
    except ValueError:
        parts = []
    if len(parts) != count:
        raise ValueError("cursor: is not one of this operation's")
    return parts


# --- list


def list_entries(request):
    [after] = unpack(request.get("cursor"), 1)
    top = ops.target(request["path"])
    matches = matcher(request.get("glob"))
    walk = Walk(top, after, recursive=bool(request.get("recursive")))
    page, size, cursor = [], 0, None
    for path, info in walk:
        if matches(path):
            name, escaped = text(path)
            page.append({"path": name, "escaped": escaped, **ops.describe(info)})
            size += 6 * len(path) + 150
        if len(page) >= request["limit"] or size > PAGE_BYTES or walk.over:
            cursor = pack(walk.place)
            break
    ops.put_out(as_json({"entries": page, "cursor": cursor, "skipped": walk.skipped}))
    return {}


# --- search


def search(request):
    import re

    path, line = unpack(request.get("cursor"), 2)
    try:
        expression = re.compile(request["pattern"], re.IGNORECASE if request.get("ignore_case") else 0)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"pattern: {error}") from None
    Search(request, expression).run(path, int(line) if line.isdigit() else 0)
    return {}


class Search:
    """One page of matches."""

    def __init__(self, request, expression):
        self.top = ops.target(request["path"])
        self.expression = expression
        self.matches = matcher(request.get("glob"))
        self.context = request["context"]
        self.limit = request["limit"]
        self.page = []
        self.size = 0
        self.files = 0
        self.binary = 0
        self.cursor = None

    def run(self, path, line):
        if not os.path.isdir(self.top):
            self._file(b"", os.stat(self.top), line, time.monotonic() + SECONDS)
            self._answer(0)
            return
        walk = Walk(self.top, path, recursive=True)
        if path and line:
            # The page before ended inside of this file.
            self._visit(path, line, walk.until)
        if self.cursor is None:
            for each, info in walk:
                if stat.S_ISREG(info.st_mode) and self.matches(each):
                    self._file(each, info, 0, walk.until)
                if self.cursor is None and walk.over:
                    self.cursor = pack(each, b"")
                if self.cursor is not None:
                    break
        self._answer(walk.skipped)

    def _visit(self, path, line, until):
        try:
            info = os.lstat(os.path.join(os.fsencode(self.top), path))
        except OSError:
            return
        if stat.S_ISREG(info.st_mode):
            self._file(path, info, line, until)

    def _file(self, path, info, skip, until):
        whole = os.path.join(os.fsencode(self.top), path) if path else os.fsencode(self.top)
        try:
            fd, _ = ops.open_regular(os.fsdecode(whole))
        except (OSError, ValueError):
            return
        with open(fd, "rb", PROBE * 8) as file:
            if b"\0" in file.peek(PROBE)[:PROBE]:
                self.binary += 1
                return
            self.files += 1
            # No further than it was long when we came: a program may be writing to it.
            self._lines(file, path, skip, info.st_size, until)

    def _lines(self, file, path, skip, left, until):
        number, before, waiting = 1, [], []
        while left > 0 and (raw := file.readline(min(LINE, left))):
            left -= len(raw)
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            for match in waiting:
                match["after"].append(line[:SHOWN])
                self.size += 6 * len(line[:SHOWN])
            waiting = [match for match in waiting if len(match["after"]) < self.context]
            done = self.cursor is not None
            if not done and number > skip and (found := self.expression.search(line)):
                match = self._match(path, number, line, found, before)
                if self.context:
                    waiting.append(match)
                if len(self.page) >= self.limit or self.size > PAGE_BYTES:
                    self.cursor = pack(path, b"%d" % number)
            elif not done and number % 256 == 0 and time.monotonic() > until:
                self.cursor = pack(path, b"%d" % number)
            if self.cursor is not None and not waiting:
                return
            if self.context:
                before = [*before, line[:SHOWN]][-self.context :]
            number += raw.endswith(b"\n")

    def _match(self, path, number, line, found, before):
        # A long line is shown around what was found.
        start = max(0, found.start() - SHOWN // 4) if len(line) > SHOWN else 0
        name, escaped = text(path)
        shown = line[start : start + SHOWN]
        match = {
            "path": name,
            "escaped": escaped,
            "line": number,
            "column": found.start() + 1,
            "text": shown,
            "cut": len(shown) < len(line),
            "before": list(before),
            "after": [],
        }
        self.page.append(match)
        # A control character takes six bytes of JSON.
        self.size += 200 + 6 * (len(path) + len(shown) + sum(map(len, before)))
        return match

    def _answer(self, skipped):
        facts = {"files": self.files, "binary": self.binary, "skipped": skipped, "cursor": self.cursor}
        ops.put_out(as_json({"matches": self.page, **facts}))


# --- remove


def remove_tree(top):
    """Delete a directory and all below it, however deep; returns how many entries that were.

    Goes down and up by changing the working directory: paths may be longer than any call takes and
    levels more than we may have open. A directory that is moved meanwhile ends it."""
    if not os.path.lexists(top):
        return 0
    parent, name = os.path.split(os.fsencode(top))
    os.chdir(parent)
    count = 0
    path = [_descend(name)]
    while path:
        name, above, names = path[-1]
        # Looked at again in the end: somebody may still be adding to it.
        names = names or os.listdir(b".")
        if not names:
            path.pop()
            os.chdir("..")
            if not os.path.samestat(os.stat("."), above):
                raise ValueError("a directory was moved while it was being deleted")
            os.rmdir(name)
            count += 1
            continue
        path[-1] = (name, above, names)
        each = names.pop()
        try:
            if stat.S_ISDIR(os.lstat(each).st_mode):
                path.append(_descend(each))
            else:
                os.unlink(each)
                count += 1
        except FileNotFoundError:
            pass
    return count


def _descend(name):
    """Go into a directory; returns (its name, where it is, what is in it)."""
    above = os.stat(".")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags)
    except PermissionError:
        # The caller's own, whatever its mode says.
        os.chmod(name, 0o700)
        fd = os.open(name, flags)
    try:
        if os.fstat(fd).st_mode & 0o700 != 0o700:
            os.fchmod(fd, 0o700)
        os.fchdir(fd)
    finally:
        os.close(fd)
    return name, above, os.listdir(b".")
