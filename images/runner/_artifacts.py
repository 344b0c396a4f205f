"""Which regular files in /workspace a run has created or changed, as far as it can be told quickly.

A file counts if its ctime, which no program can set, is not before the run's start by the same clock of
the kernel. What the host has put there counts only once something has changed it.

The supervisor looks for itself, without a child: lstat and readdir on a tmpfs never wait. It holds on to
directories by descriptor and follows no link, and what it looks at and reports is bounded. Names are
bytes of a program's choice, so they are percent-encoded as in a URI.
"""

import os
import stat
import time

from _files import WORKSPACE

CLOCK_REALTIME_COARSE = 5
"""The clock that files get their times from; Python has no name for it."""
MOST_FILES = 64
MOST_ENTRIES = 2048
MOST_DEPTH = 12
MOST_PATH = 1024
MOST_NAMES = 24 * 1024
"""Bytes of all paths together, encoded: the report must fit into a frame."""
MOST_PLACED = 1024
NOISE = (b"__pycache__", b"node_modules")
_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
_QUOTED = [chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in range(256)]
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Artifacts:
    """`begin` when a run starts, `scan` when it has ended; `opened` and `closed` see every channel."""

    def __init__(self):
        self.start = 0
        self.known = {}
        self.writing = {}

    def opened(self, number, request):
        if request.get("op") == "write" and len(self.writing) < MOST_PLACED:
            self.writing[number] = request.get("path")

    def closed(self, number, result):
        """Remember what a file that the host has written looks like."""
        path = self.writing.pop(number, None)
        if path and result.get("ok") and len(self.known) < MOST_PLACED:
            try:
                self._place(os.fsencode(path))
            except OSError:
                pass  # then it passes for one of the program's

    def _place(self, path):
        *parents, name = [part for part in path.split(b"/") if part not in (b"", b".")]
        directory = os.open(WORKSPACE, _DIRECTORY)
        try:
            for parent in parents:
                inner = os.open(parent, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = inner
            # The kernel's times move in steps of milliseconds, and a program may write within the same one.
            # A finer time than the kernel would set is gone as soon as anything else writes.
            now = time.time_ns() // 1000 * 1000 + 1
            os.utime(name, ns=(now, now), dir_fd=directory, follow_symlinks=False)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            self.known[b"/".join((*parents, name))] = _mark(found)
        finally:
            os.close(directory)

    def begin(self):
        self.start = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)

    def scan(self):
        """{"files": [[path, size]...], "omitted": more that there are, "complete": all was looked at}"""
        scan = _Scan(self.start, self.known)
        try:
            scan.directory(os.open(WORKSPACE, _DIRECTORY), b"", 0)
        except OSError:
            scan.complete = False
        # What was changed in the last moment of this run must not count for the next one too.
        self.known = scan.marks
        return {"files": scan.files, "omitted": scan.omitted, "complete": scan.complete}


class _Scan:
    def __init__(self, start, known):
        self.start = start
        self.known = known
        self.files = []
        self.marks = {}
        self.omitted = 0
        self.complete = True
        self.left = MOST_ENTRIES
        self.room = MOST_NAMES

    def directory(self, fd, prefix, depth):
        """Files first: a large tree below must not hide them. Closes `fd`."""
        inner = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if self.left <= 0:
                        self.complete = False
                        break
                    self.left -= 1
                    self._look(entry, prefix, inner)
            for name in sorted(inner):
                self._descend(fd, name, prefix, depth)
        finally:
            os.close(fd)

    def _look(self, entry, prefix, inner):
        name = os.fsencode(entry.name)
        if entry.is_dir(follow_symlinks=False):
            if name not in NOISE and not name.startswith(b"."):
                inner.append(name)
        elif entry.is_file(follow_symlinks=False):
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                return  # gone meanwhile
            if stat.S_ISREG(found.st_mode):
                self._file(prefix + name, found)

    def _file(self, path, found):
        mark = _mark(found)
        if self.known.get(path) == mark:
            self.marks[path] = mark
        elif found.st_ctime_ns >= self.start:
            quoted = "".join([_QUOTED[byte] for byte in path])
            if len(self.files) >= MOST_FILES or len(path) > MOST_PATH or len(quoted) > self.room:
                self.omitted += 1
                return
            self.room -= len(quoted)
            self.files.append([quoted, found.st_size])
            self.marks[path] = mark

    def _descend(self, parent, name, prefix, depth):
        if depth >= MOST_DEPTH or self.left <= 0:
            self.complete = False
            return
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError:
            self.complete = False
            return
        self.directory(fd, prefix + name + b"/", depth + 1)


def _mark(found):
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
