"""File operations. Each runs in a short-lived child, so that a FIFO, a dead-slow tree or a
hostile name can't hold up the supervisor. Here symlinks can only hurt the sandbox itself.

`Operation` is the channel: it moves bytes between the wire and the child's pipes. What the child
does is in `_file_ops` and `_file_walk`, which only children import: PID 1 stays small.
"""

import errno
import fcntl
import json
import os
import resource

import _processes as processes
import _wire as wire

WORKSPACE = "/workspace"
WRITABLE = (WORKSPACE, "/tmp", "/dev/shm")
NAMES = frozenset(("read", "write", "list", "delete", "create_dir", "edit", "move", "copy", "stat", "search"))
PIPE_SIZE = 256 * 1024
MORE_CREDIT = 768 * 1024
"""For DATA, at once: with the wire's first window alone, files come in at the pace of its round trips."""
REPORT_LIMIT = 8 * 1024
CHILD_MEMORY = 160 * 1024 * 1024
KILLED = {"ok": False, "error": "ECANCELED", "message": "was killed"}


class Operation:
    """One file operation: DATA goes to the child, its output comes as STDOUT, its report is the CLOSE."""

    def __init__(self, supervisor, number, request):
        self.supervisor = supervisor
        self.number = number
        self.credit = wire.WINDOW
        self.owed = 0
        self.step_of_credit = wire.WINDOW // 4
        self.pending = bytearray()
        self.input_ended = False
        self.ended = False
        data_read, self.data = _pipe()
        self.output, output_write = _pipe()
        self.report, report_write = os.pipe2(os.O_CLOEXEC)
        theirs = (data_read, output_write, report_write)
        try:
            self.pid = supervisor.residents.fork(lambda: _in_child(request, theirs))
        except OSError:
            for fd in (self.data, self.output, self.report):
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        # A program of the same user may hold the other ends: nothing here may ever block.
        for fd in (self.data, self.output, self.report):
            os.set_blocking(fd, False)
        if request["op"] == "write":
            supervisor.out.send_credit(number, MORE_CREDIT)
            self.step_of_credit += MORE_CREDIT // 4

    @property
    def outlives_runs(self):
        # Once reaped, its number may be anybody's.
        return not self.ended

    def claims(self, pid):
        return pid == self.pid and not self.ended

    def feed(self, payload):
        if self.pending or self.data is None:
            self.pending += payload
        else:
            # Mostly the pipe takes all of it, and then it need not be copied once more.
            self.pending += payload[self._send(payload) :]
        self._pump()

    def _send(self, data):
        try:
            sent = os.write(self.data, data)
        except (BlockingIOError, BrokenPipeError):
            return 0
        self._give_credit(sent)
        return sent

    def _give_credit(self, amount):
        """In steps of a part of what there is in all: nobody waits for the rest."""
        self.owed += amount
        if self.owed >= self.step_of_credit:
            self.supervisor.out.send_credit(self.number, self.owed)
            self.owed = 0

    def end_of_input(self):
        self.input_ended = True
        self._pump()

    def cancel(self):
        if not self.ended:
            os.kill(self.pid, 9)
        self._close_output()

    def _pump(self, _fd=None):
        if self.data is None:
            self._swallow()
            return
        try:
            while self.pending:
                sent = os.write(self.data, memoryview(self.pending)[:PIPE_SIZE])
                del self.pending[:sent]
                self._give_credit(sent)
        except BlockingIOError:
            if self.data not in self.supervisor.writers:
                self.supervisor.on_writable(self.data, self._pump)
            return
        except BrokenPipeError:
            # The child has given up and its report says why; swallow what is still coming.
            self._swallow()
        self.supervisor.ignore(self.data)
        if self.input_ended:
            self._close_data()

    def _swallow(self):
        if self.pending:
            self._give_credit(len(self.pending))
            self.pending.clear()

    def _on_readable(self, fd):
        allowed = min(self.credit, wire.MAX_PAYLOAD)
        if allowed <= 0 or self.supervisor.congested:
            self.supervisor.ignore(fd)
            return
        data = processes.read(fd, allowed)
        if data:
            self.credit -= len(data)
            self.supervisor.out.send(wire.STDOUT, self.number, data)
        elif data is not None or self.ended:
            # Its end, or nothing left of a child that is gone although somebody else holds the pipe.
            self._close_output()

    def step(self):
        if not self.ended and self.pid in self.supervisor.statuses:
            del self.supervisor.statuses[self.pid]
            self.ended = True
            self._close_data()
        if self.ended:
            while self.output is not None and self.credit > 0 and not self.supervisor.congested:
                self._on_readable(self.output)
            if self.output is None:
                self.supervisor.close(self.number, self._take_report())
        elif self._may_read():
            self.supervisor.on_readable(self.output, self._on_readable)

    def _may_read(self):
        waiting = self.output is not None and self.output not in self.supervisor.readers
        return waiting and self.credit > 0 and not self.supervisor.congested

    def _close_data(self):
        if self.data is not None:
            self.supervisor.ignore(self.data)
            os.close(self.data)
            self.data = None

    def _close_output(self):
        if self.output is not None:
            self.supervisor.ignore(self.output)
            os.close(self.output)
            self.output = None

    def _take_report(self):
        report = processes.read(self.report, REPORT_LIMIT)
        os.close(self.report)
        try:
            result = json.loads(report) if report else KILLED
        except (ValueError, RecursionError):
            return KILLED
        return result if isinstance(result, dict) else KILLED


def _pipe():
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # what one user may have in pipes is limited too
    return ends


def _in_child(request, theirs):
    # Programs of the same user have no business in this child's memory or descriptors.
    processes.adopt(theirs, private=True)
    try:
        limit_memory()
        import _file_ops

        enter_workspace()
        result = {"ok": True, **_file_ops.OPERATIONS[request["op"]](request)}
    except OSError as error:
        result = failure(error)
    except ValueError as error:
        result = {"ok": False, "error": "EINVAL", "message": str(error)[:1000]}
    except MemoryError:
        result = {"ok": False, "error": "ENOMEM", "message": "the operation takes too much memory"}
    except Exception as error:
        result = {"ok": False, "error": "EIO", "message": type(error).__name__}
    os.write(2, json.dumps(result).encode()[:REPORT_LIMIT])


def limit_memory():
    """What a huge directory or file takes must fail here, not let the OOM killer choose among programs."""
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + CHILD_MEMORY, now + CHILD_MEMORY))


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
