"""What the child of a file operation does. Input is descriptor 0, output 1.

Paths come relative to the workspace or absolute in a root. Links are followed as long as they
stay in a root; what was opened is checked by its descriptor, so a link that changes in between
changes nothing. An OSError or a ValueError becomes the report of the failure.
"""

import errno
import os
import stat

from _files import WORKSPACE

ROOTS = (WORKSPACE, "/tmp")
CHUNK = 256 * 1024
MAX_DEPTH = 200


# --- paths


def target(path, roots=ROOTS):
    """The real path that `path` leads to. Raises ValueError if that is outside of the roots."""
    return _inside(os.path.realpath(os.path.join(WORKSPACE, path)), roots)


def entry(path, roots=ROOTS):
    """The real path of the entry itself: a link at the end is not followed."""
    path = os.path.join(WORKSPACE, path)
    parent, name = os.path.split(path)
    if path in ROOTS:
        return path
    return os.path.join(_inside(os.path.realpath(parent), roots), name)


def _inside(path, roots):
    if not any(path == root or path.startswith(root + "/") for root in roots):
        raise ValueError(f"leads out of {' and '.join(roots)}")
    return path


def open_regular(path):
    """A descriptor for reading and its stat. Never waits for anybody; only regular files."""
    fd = os.open(target(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    info = os.fstat(fd)
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "")
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("not a regular file")
    _inside(os.readlink(f"/proc/self/fd/{fd}"), ROOTS)
    return fd, info


def put_out(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


# --- reading


def read(request):
    """The bytes from `offset`, or the lines from `line`; at most `length` bytes of them."""
    fd, info = open_regular(request["path"])
    if request.get("line"):
        result = _read_lines(fd, info.st_size, request["line"], request.get("lines"), request["length"])
    else:
        result = _read_bytes(fd, request["offset"], request["length"])
    return {**result, "size": os.fstat(fd).st_size}


def _read_bytes(fd, offset, length):
    sent = 0
    while sent < length:
        # From the file to the pipe within the kernel.
        size = os.sendfile(1, fd, offset + sent, min(CHUNK, length - sent))
        if not size:
            break
        sent += size
    return {"offset": offset, "sent": sent}


def _read_lines(fd, left, first, count, length):
    """Also counts all lines. A last line without a newline is one. Reads the `left` bytes that there were
    when it began: a program may be writing as fast as we read."""
    line, sent, position, start = 1, 0, 0, None
    last = None if count is None else first + count
    ends_open = False
    while left > position and (data := os.read(fd, min(CHUNK, left - position))):
        begin = _after_lines(data, first - line) if line < first else 0
        if begin < len(data) and start is None:
            start = position + begin
        if begin < len(data) and sent < length and (last is None or line < last):
            end = len(data) if last is None else _after_lines(data, last - line)
            piece = data[begin:end][: length - sent]
            put_out(piece)
            sent += len(piece)
        line += data.count(b"\n")
        position += len(data)
        ends_open = not data.endswith(b"\n")
    total = line - 1 + ends_open
    return {"offset": position if start is None else start, "sent": sent, "total_lines": total}


def _after_lines(data, count):
    """Where in `data` the text after its first `count` newlines begins; its end if it has fewer."""
    at = 0
    for _ in range(count):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return len(data)
    return at


# --- writing


def write(request):
    """Input to a file. Without `append` the file appears or changes at once, or not at all."""
    path = target(request["path"], (WORKSPACE,))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    mode = request.get("mode")
    if request.get("append"):
        return _append(path, mode, request.get("at"))
    with Replacement(path, mode) as file:
        size = 0
        for data in _input():
            size += len(data)
            file.write(data)
    return {"size": size}


def _input():
    """What is to be written, piece by piece; each is good until the next is asked for."""
    room = memoryview(bytearray(CHUNK))
    while size := os.readv(0, (room,)):
        yield room[:size]


def _append(path, mode, at):
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644 if mode is None else mode)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("not a regular file")
    if at is not None and info.st_size != at:
        raise ValueError(f"the file has {info.st_size} bytes, not {at}: nothing was appended")
    if mode is not None:
        os.fchmod(fd, mode)
    for data in _input():
        write_all(fd, data)
    return {"size": os.fstat(fd).st_size}


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Replacement:
    """A file that takes the place of `path` when all is well. Until then it has no name where the
    file system can do that, so that being killed leaves nothing behind."""

    def __init__(self, path, mode=None):
        self.path = path
        self.temporary = os.path.join(os.path.dirname(path), f".sandbox-{os.urandom(8).hex()}")
        self.named = False
        old = self._old()
        self.mode = mode if mode is not None else (stat.S_IMODE(old.st_mode) if old else 0o644)
        self.fd = self._open()

    def _old(self):
        try:
            old = os.lstat(self.path)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(errno.EISDIR, "")
        if not stat.S_ISREG(old.st_mode):
            raise ValueError("not a regular file")
        return old

    def _open(self):
        try:
            return os.open(os.path.dirname(self.path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
        self.named = True
        return os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, data):
        write_all(self.fd, data)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                os.fchmod(self.fd, self.mode)
                if not self.named:
                    # Only with a directory given does Python ask the kernel to follow the link.
                    link = f"/proc/self/fd/{self.fd}"
                    os.link(link, self.temporary, src_dir_fd=self.fd, follow_symlinks=True)
                    self.named = True
                os.rename(self.temporary, self.path)
                self.named = False
        finally:
            os.close(self.fd)
            if self.named:
                os.unlink(self.temporary)


def create_dir(request):
    path = target(request["path"], (WORKSPACE,))
    if os.path.isdir(path):
        return {"created": False}
    os.makedirs(path, exist_ok=True)
    return {"created": True}


# --- entries


def describe(info):
    """The facts about an entry that `list` and `stat` have in common."""
    mode = info.st_mode
    kind = "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"
    return {
        "type": "symlink" if stat.S_ISLNK(mode) else kind,
        "size": info.st_size,
        "mode": stat.S_IMODE(mode),
        "modified": info.st_mtime,
    }


def stat_entry(request):
    path = entry(request["path"])
    info = os.lstat(path)
    result = describe(info)
    if stat.S_ISLNK(info.st_mode):
        result["target"] = os.fsencode(os.readlink(path)).decode("utf-8", "backslashreplace")[:1024]
    return result


def delete(request):
    path = entry(request["path"], (WORKSPACE,))
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return {"deleted": 1}
    if not request.get("recursive"):
        os.rmdir(path)
        return {"deleted": 1}
    import _file_walk

    return {"deleted": _file_walk.remove_tree(path)}


def move(request):
    source = entry(request["path"], (WORKSPACE,))
    os.lstat(source)
    destination = _destination(request)
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    os.rename(source, destination)
    return {}


def _destination(request):
    path = entry(request["to"], (WORKSPACE,))
    if os.path.lexists(path) and not request.get("overwrite"):
        raise FileExistsError(errno.EEXIST, "")
    return path


def copy(request):
    source = target(request["path"])
    destination = _destination(request)
    os.makedirs(os.path.dirname(destination), exist_ok=True)
    if not os.path.isdir(source):
        return {"files": 1, "bytes": _copy_file(source, destination)}
    if not request.get("recursive"):
        raise IsADirectoryError(errno.EISDIR, "")
    if os.path.lexists(destination):
        raise FileExistsError(errno.EEXIST, "")
    if (destination + "/").startswith(source + "/"):
        raise ValueError("a directory can't be copied into itself")
    try:
        files, size, skipped = _copy_tree(source, destination, 0)
    except BaseException:
        import _file_walk

        _file_walk.remove_tree(destination)
        raise
    return {"files": files, "bytes": size, "skipped": skipped}


def _copy_file(source, destination):
    fd, info = open_regular(source)
    size = 0
    with Replacement(destination, stat.S_IMODE(info.st_mode)) as file:
        # Not to its end: a program may write to it as fast as we read.
        while size < info.st_size and (data := os.read(fd, CHUNK)):
            file.write(data)
            size += len(data)
    os.close(fd)
    return size


def _copy_tree(source, destination, depth):
    """Files, directories and links; anything else is skipped and counted."""
    if depth > MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, "")
    os.mkdir(destination, 0o700)
    files = size = skipped = 0
    for name in os.listdir(source):
        here, there = os.path.join(source, name), os.path.join(destination, name)
        kind = os.lstat(here).st_mode
        if stat.S_ISDIR(kind):
            more = _copy_tree(here, there, depth + 1)
            files, size, skipped = files + more[0], size + more[1], skipped + more[2]
        elif stat.S_ISLNK(kind):
            os.symlink(os.readlink(here), there)
        elif stat.S_ISREG(kind):
            size += _copy_file(here, there)
            files += 1
        else:
            skipped += 1
    os.chmod(destination, stat.S_IMODE(os.stat(source).st_mode))
    return files, size, skipped


def _edit(request):
    import _file_edit

    return _file_edit.edit(request)


def _list(request):
    import _file_walk

    return _file_walk.list_entries(request)


def _search(request):
    import _file_walk

    return _file_walk.search(request)


OPERATIONS = {
    "read": read,
    "write": write,
    "list": _list,
    "delete": delete,
    "create_dir": create_dir,
    "edit": _edit,
    "move": move,
    "copy": copy,
    "stat": stat_entry,
    "search": _search,
}
