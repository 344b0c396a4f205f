"""File operations. Each runs in a short-lived child, so that a FIFO, a dead-slow tree or a
hostile name can't hold up the supervisor. Here symlinks can only hurt the sandbox itself."""

import errno
import json
import os
import stat

import _processes as processes

WORKSPACE = "/workspace"
WRITABLE = (WORKSPACE, "/tmp", "/dev/shm")


class Write:
    """The operation `write`: DATA goes to a child that writes the file."""

    outlives_runs = True

    def __init__(self, supervisor, number, request):
        self.supervisor = supervisor
        self.number = number
        self.credit = 0
        self.pending = bytearray()
        self.ended = False
        self.cancelled = False
        data_read, self.data = os.pipe2(os.O_CLOEXEC)
        self.report, report_write = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = supervisor.fork(lambda: _in_child(lambda: _write(request), data_read, report_write))
        except OSError:
            os.close(self.data)
            os.close(self.report)
            raise
        finally:
            os.close(data_read)
            os.close(report_write)
        os.set_blocking(self.data, False)

    def claims(self, pid):
        return pid == self.pid

    def feed(self, payload):
        self.pending += payload
        self._pump()

    def end_of_input(self):
        self.ended = True
        self._pump()

    def cancel(self):
        self.cancelled = True
        os.kill(self.pid, 9)

    def _pump(self, _fd=None):
        if self.data is None:
            return
        try:
            while self.pending:
                sent = os.write(self.data, memoryview(self.pending)[: 64 * 1024])
                del self.pending[:sent]
                self.supervisor.out.send_credit(self.number, sent)
        except BlockingIOError:
            if self.data not in self.supervisor.writers:
                self.supervisor.on_writable(self.data, self._pump)
            return
        except BrokenPipeError:
            # The child has given up and its report says why; swallow what is still coming.
            self.supervisor.out.send_credit(self.number, len(self.pending))
            self.pending.clear()
        self.supervisor.ignore(self.data)
        if self.ended:
            os.close(self.data)
            self.data = None

    def step(self):
        if self.pid not in self.supervisor.statuses:
            return
        del self.supervisor.statuses[self.pid]
        if self.data is not None:
            self.supervisor.ignore(self.data)
            os.close(self.data)
        report = os.read(self.report, 4096)
        os.close(self.report)
        result = (
            json.loads(report) if report else {"ok": False, "error": "ECANCELED", "message": "was killed"}
        )
        self.supervisor.close(self.number, result)


def _in_child(work, data_read, report_write):
    processes.adopt((data_read, report_write, report_write))
    try:
        result = {"ok": True, **work()}
    except OSError as error:
        result = failure(error)
    except ValueError as error:
        result = {"ok": False, "error": "EINVAL", "message": str(error)}
    except Exception as error:
        result = {"ok": False, "error": "EIO", "message": type(error).__name__}
    os.write(1, json.dumps(result).encode())


def failure(error):
    """An OSError as the CLOSE of an operation."""
    number = error.errno or errno.EIO
    return {"ok": False, "error": errno.errorcode.get(number, "EIO"), "message": os.strerror(number)}


def enter_workspace():
    """Make it the working directory, also if an earlier program has locked itself out of it."""
    try:
        os.chdir(WORKSPACE)
    except PermissionError:
        os.chmod(WORKSPACE, 0o700)
        os.chdir(WORKSPACE)


def _write(request):
    enter_workspace()
    path = os.path.join(WORKSPACE, request["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    flags |= os.O_APPEND if request.get("append") else os.O_TRUNC
    fd = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ValueError("not a regular file")
    size = 0
    while data := os.read(0, 64 * 1024):
        size += len(data)
        while data:
            data = data[os.write(fd, data) :]
    return {"size": size}


def full_file_systems():
    """Those a program may write to and that have no space or no inodes left."""
    full = []
    for path in WRITABLE:
        try:
            numbers = os.statvfs(path)
        except OSError:
            continue
        if numbers.f_blocks and (numbers.f_bavail == 0 or (numbers.f_files and numbers.f_ffree == 0)):
            full.append(path)
    return full
