"""One run: its main process, its pipes, its end."""

import os
import signal
import socket

import _accounting as accounting
import _files as files
import _processes as processes
import _python as python
import _wire as wire

CODE_DIRECTORY = "/tmp/.sandbox"
DRAIN_LIMIT = 4 * 1024 * 1024


class Interpreter:
    """A kept Python child: it takes cells over a socket and says when each is done.

    One that has taken nothing yet can also become the program of a run that is not kept."""

    def __init__(self, fork):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = fork(lambda: python.serve_cells(theirs.detach(), _become))
        self.control.setblocking(False)

    def run(self, cell, fds):
        """Send the request (bytes) and the descriptors that are its stdin, stdout, stderr and side.

        Raises OSError if the interpreter has closed or filled its socket."""
        # Comes back in the cell's report: an earlier cell may have sent more than its own one.
        self.token = os.urandom(8).hex().encode()
        # The code may be larger than a socket message, so it travels as a file of its own.
        code = os.memfd_create("cell", os.MFD_CLOEXEC)
        try:
            os.write(code, cell)
            os.lseek(code, 0, os.SEEK_SET)
            socket.send_fds(self.control, [self.token], [code, *fds])
        finally:
            os.close(code)
        os.kill(self.pid, signal.SIGCONT)

    def close(self):
        self.control.close()


class Run:
    """RUNNING until the main process ends or is killed, then DRAINING its pipes, then closed."""

    outlives_runs = False

    def __init__(self, supervisor, number, request):
        self.supervisor = supervisor
        self.number = number
        self.request = request
        self.credit = wire.WINDOW
        self.cause = None
        self.status = None
        self.finished = False
        self.alone = False
        self.fresh = False
        self.pid = None
        self.keep = bool(request.get("keep"))
        self.stdin = None
        self.stdin_pending = bytearray()
        self.stdin_ended = False
        self.pipes = {}
        self.drained = 0
        self.cpu_limit = request.get("cpu")
        self.cpu_start = accounting.cpu_us()
        self.oom_start = accounting.oom_kills()
        self.full_start = files.full_file_systems()
        self.supervisor.artifacts.begin()

    # --- start

    def start(self):
        theirs = self._make_pipes()
        try:
            if self.keep:
                self._start_cell(theirs)
            elif not self._hand_over(theirs):
                self.pid = self.supervisor.fork(lambda: _become(self.request, theirs))
        finally:
            for fd in theirs:
                os.close(fd)

    def _make_pipes(self):
        """Our ends go into self; returns theirs: stdin, stdout, stderr, side."""
        if self.request.get("stdin"):
            stdin, self.stdin = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.stdin, False)
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        theirs = [stdin]
        for kind in (wire.STDOUT, wire.STDERR, wire.SIDE):
            ours, other = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(ours, False)
            self.pipes[ours] = kind
            self.supervisor.on_readable(ours, self._on_readable)
            theirs.append(other)
        return theirs

    def _start_cell(self, theirs):
        cell = python.pack(self.request)
        try:
            self._kept_interpreter().run(cell, theirs)
        except OSError:
            self.supervisor.kill_interpreter()
            self._kept_interpreter().run(cell, theirs)
        interpreter = self.supervisor.interpreter
        self.pid = interpreter.pid
        self.supervisor.on_readable(interpreter.control.fileno(), self._on_cell_done)

    def _kept_interpreter(self):
        if self.supervisor.interpreter is None:
            ahead = self.supervisor.take_ahead()
            self.supervisor.interpreter = ahead or Interpreter(self.supervisor.fork)
            self.fresh = True
        return self.supervisor.interpreter

    def _hand_over(self, theirs):
        """Let the process that was forked ahead, if there still is one, become this run's."""
        ahead = self.supervisor.take_ahead()
        if ahead is None:
            return False
        try:
            ahead.run(python.pack(self.request), theirs)
        except OSError:
            return False  # it has ended, or ends now that its socket closes
        finally:
            ahead.close()
        self.pid = ahead.pid
        return True

    # --- while it runs

    @property
    def starting(self):
        return self.pid is None

    @property
    def needs_checks(self):
        return not self.finished and bool(self.cpu_limit)

    def claims(self, pid):
        return pid == self.pid

    def feed(self, payload):
        self.stdin_pending += payload
        self._pump_stdin()

    def end_of_input(self):
        self.stdin_ended = True
        self._pump_stdin()

    def cancel(self):
        if not self.finished:
            self._stop("cancelled")

    def _pump_stdin(self, _fd=None):
        if self.stdin is None:
            return
        try:
            while self.stdin_pending:
                sent = os.write(self.stdin, memoryview(self.stdin_pending)[: 64 * 1024])
                del self.stdin_pending[:sent]
                self.supervisor.out.send_credit(self.number, sent)
        except BlockingIOError:
            if self.stdin not in self.supervisor.writers:
                self.supervisor.on_writable(self.stdin, self._pump_stdin)
            return
        except BrokenPipeError:
            # The program has closed its stdin: swallow the rest, as a shell pipe would.
            self.supervisor.out.send_credit(self.number, len(self.stdin_pending))
            self.stdin_pending.clear()
        self.supervisor.ignore(self.stdin)
        if self.stdin_ended:
            self._close_stdin()

    def _close_stdin(self):
        if self.stdin is not None:
            self.supervisor.ignore(self.stdin)
            os.close(self.stdin)
            self.stdin = None

    def _on_readable(self, fd):
        allowed = min(self.credit, wire.MAX_PAYLOAD)
        if allowed <= 0 or self.supervisor.congested:
            self.supervisor.ignore(fd)
            return
        data = processes.read(fd, allowed)
        if data is None:
            return
        if not data:
            self._close_pipe(fd)
            return
        self.credit -= len(data)
        if self.finished:
            self.drained += len(data)
        self.supervisor.out.send(self.pipes[fd], self.number, data)

    def _close_pipe(self, fd):
        self.supervisor.ignore(fd)
        del self.pipes[fd]
        os.close(fd)

    def _on_cell_done(self, fd):
        interpreter = self.supervisor.interpreter
        try:
            report = interpreter.control.recv(64)
        except BlockingIOError:
            return
        except ConnectionResetError:
            report = b""
        if not report:
            # The interpreter died, and its exit status will tell.
            self.supervisor.ignore(fd)
            return
        # Nothing keeps the program from writing to this socket: any bytes must make sense.
        token, _, code = report.partition(b" ")
        if token == interpreter.token and not self.finished:
            self.supervisor.ignore(fd)
            self.status = (int(code) & 0xFF if code.isdigit() else 1) << 8
            self._end()

    def _stop(self, cause):
        self.cause = cause
        self._end()

    def step(self):
        if not self.finished:
            if self.pid in self.supervisor.statuses:
                self.status = self.supervisor.statuses.pop(self.pid)
                self._end()
            elif self.cpu_limit and accounting.cpu_us() - self.cpu_start > self.cpu_limit * 1_000_000:
                self._stop("cpu")
        if self.finished:
            self._drain()
        elif self.credit > 0 and not self.supervisor.congested:
            for fd in self.pipes:
                if fd not in self.supervisor.readers:
                    self.supervisor.on_readable(fd, self._on_readable)

    # --- the end

    def _end(self):
        """Kill all that is left of the run and learn how its main process ended."""
        self.finished = True
        self._close_stdin()
        if self.keep and self.cause:
            self.supervisor.drop_interpreter()
        self.alone, ended = self.supervisor.kill_all()
        for pid, status in ended:
            if pid == self.pid and self.status is None:
                self.status = status
        self.supervisor.statuses.pop(self.pid, None)

    def _drain(self):
        """Send what is still in the pipes, as far as credit goes; then close the channel."""
        for fd in list(self.pipes):
            while fd in self.pipes and self.credit > 0 and not self.supervisor.congested:
                before = self.credit
                self._on_readable(fd)
                if self.credit == before and fd in self.pipes:
                    # Nothing more to read although somebody holds the other end: a kept interpreter.
                    self._close_pipe(fd)
            if fd in self.pipes and self.drained > DRAIN_LIMIT:
                self._close_pipe(fd)
        if not self.pipes:
            self.supervisor.close(self.number, self._result())

    def _result(self):
        exit_code, number = _decode(self.status)
        cpu_us = max(0, accounting.cpu_us() - self.cpu_start)
        # The kernel's limit may have been faster than ours; a program may also kill itself so.
        if number == signal.SIGXCPU and self.cpu_limit and cpu_us > self.cpu_limit * 1_000_000:
            self.cause = "cpu"
        return {
            "exit_code": exit_code,
            "signal": number,
            "cause": self.cause,
            "cpu_us": cpu_us,
            "peak_memory": accounting.peak_memory(),
            "oom_kills": accounting.oom_kills() - self.oom_start,
            "full": [path for path in files.full_file_systems() if path not in self.full_start],
            "alone": self.alone,
            "interpreter": self._interpreter_state(),
            "fresh": self.fresh,
            "ended": self._others_ended(),
            "artifacts": self.supervisor.artifacts.scan(),
        }

    def _interpreter_state(self):
        if not self.keep:
            return None
        interpreter = self.supervisor.interpreter
        return "kept" if interpreter and interpreter.pid == self.pid else "gone"

    def _others_ended(self):
        """The kept interpreters whose state is gone, but for this run's own, of which the rest tells."""
        ended = self.supervisor.ended - ({"python"} if self.keep else set())
        self.supervisor.ended.clear()
        return sorted(ended)


def _become(request, theirs):
    """In a child: be the program of a run that is not kept."""
    if request.get("cpu"):
        processes.limit_cpu(request["cpu"])
    if request["mode"] == "fork":
        python.run_once(request, theirs)
    else:
        _execute(request, theirs)


def _decode(status):
    if status is None:
        return None, None
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _execute(request, theirs):
    """In the child: write the program down and become it."""
    processes.adopt(theirs[:3])
    files.enter_workspace()
    path = os.path.join(CODE_DIRECTORY, request["file"])
    try:
        _write_program(path, request["code"])
    except OSError as error:
        os.write(2, f"sandbox: the program could not be written to /tmp: {error.strerror}\n".encode())
        os._exit(126)
    argv = [path if item == "{file}" else item for item in request["argv"]] + request["args"]
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _write_program(path, code):
    """A new file each time: what an earlier run has put there may be a FIFO or a link."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="utf-8", newline="") as file:
        file.write(code)
