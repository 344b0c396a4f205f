"""One run: its main process, its pipes, its end."""

import os
import signal

import _accounting as accounting
import _egress as egress
import _files as files
import _interpreters as interpreters
import _processes as processes
import _python as python
import _scrub as scrub
import _wire as wire

DRAIN_LIMIT = 4 * 1024 * 1024


class Run:
    """BUILDING if need be, RUNNING until the main process ends or is killed, DRAINING its pipes, closed."""

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
        self.driver = request.get("driver") or "python"
        self.building = bool(request.get("build"))
        self.interpreter = None
        self.interrupted = False
        self.theirs = ()
        self.listener = None
        self.stdin = None
        self.stdin_pending = bytearray()
        self.stdin_ended = False
        self.pipes = {}
        self.drained = 0
        self.cpu_limit = request.get("cpu")
        self.cpu_start = supervisor.cpu_us()
        self.oom_start = supervisor.background.oom_kills_of_runs()
        self.full_start = files.full_file_systems()
        self.supervisor.artifacts.begin()

    # --- start

    def start(self):
        self.listener, self.request["env"] = egress.open_for(self.supervisor, self.request)
        try:
            self.theirs = self._make_pipes()
            if self.building:
                self._start_build()
            else:
                self._start_program()
        except processes.NoProcess:
            self._refuse()

    def _refuse(self):
        """No process can be made: background processes have all that there may be."""
        if not self.supervisor.background.roots():
            raise
        self.interpreter = None  # it was not asked to run anything, so it keeps its state
        self._stop("no_process")

    def _start_build(self):
        """The compiler reads nothing, and all that it says goes to stderr; its limits are the run's."""
        _stdin, _stdout, stderr, side = self.theirs
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            request = {
                **self.request,
                "mode": "spawn",
                "argv": self.request["build"],
                "args": [],
                "keep": False,
            }
            self._start_process(request, (null, stderr, stderr, side))
        finally:
            os.close(null)

    def _start_program(self):
        try:
            if self.keep:
                self._start_cell()
            else:
                self._start_process({**self.request, "written": bool(self.request.get("build"))}, self.theirs)
        finally:
            self._close_theirs()

    def _start_process(self, request, fds):
        if not self._hand_over(request, fds):
            self.pid = self.supervisor.fork(lambda: become(request, fds))

    def _close_theirs(self):
        for fd in self.theirs:
            os.close(fd)
        self.theirs = ()

    def _go_on(self):
        """The build has gone well: be rid of what it may have left, then run what it made."""
        alone, _ended = self.supervisor.kill_all()
        if not alone:
            self._end()
            return
        self.building, self.pid, self.status = False, None, None
        try:
            self._start_program()
        except processes.NoProcess:
            self._refuse()

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

    def _start_cell(self):
        try:
            self._run_cell()
        except OSError as error:
            if self.supervisor.is_crowded(error):
                raise
            self.supervisor.kill_interpreters()
            self._run_cell()
        self.pid = self.interpreter.pid
        self.supervisor.on_readable(self.interpreter.control.fileno(), self._on_cell_done)

    def _run_cell(self):
        self.interpreter = self.supervisor.interpreters.get(self.driver)
        if self.interpreter is None:
            self.interpreter = self.supervisor.interpreters[self.driver] = self._new_interpreter()
            self.fresh = True
        self.interpreter.run(self.request, self.theirs, self.supervisor.fork)

    def _new_interpreter(self):
        if self.driver == "python":
            return self.supervisor.take_ahead() or interpreters.Python(self.supervisor.fork, become)
        ahead = self.supervisor.take_ahead()
        if ahead is not None:
            ahead.close()  # it ends: no program may meet it
        argv = interpreters.DRIVERS[self.driver]
        return interpreters.Driven(self.supervisor.fork, argv, self.request["env"])

    def _hand_over(self, request, theirs):
        """Let the process that was forked ahead, if there still is one, become this run's."""
        ahead = self.supervisor.take_ahead()
        if ahead is None:
            return False
        try:
            ahead.run(request, theirs)
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
        return bool(self.cpu_limit and not self.finished)

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

    def interrupt(self):
        """Ask the cell to stop, as Ctrl-C would; once, and only while it runs. A build holds no state."""
        if self.finished or self.interrupted or not self.keep:
            return
        self.interrupted = True
        if self.building:
            self._stop("cancelled")
        else:
            processes.interrupt(self.pid, self.supervisor.untouched())

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
        try:
            report = self.interpreter.control.recv(64)
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
        if token == self.interpreter.token and not self.finished:
            self.supervisor.ignore(fd)
            self.status = (int(code) & 0xFF if code.isdigit() else 1) << 8
            self._end()

    def _stop(self, cause):
        self.cause = cause
        self._end()

    def step(self):
        if self.listener:
            self.listener.step()
        if not self.finished:
            if self.pid in self.supervisor.statuses:
                self.status = self.supervisor.statuses.pop(self.pid)
                if self.building and self.status == 0:
                    self._go_on()
                else:
                    self._end()
            elif self.cpu_limit and self.supervisor.cpu_us() - self.cpu_start > self.cpu_limit * 1_000_000:
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
        self._close_theirs()
        if self.interpreter and self.cause:
            self.supervisor.drop_interpreter(self.interpreter)
        self.alone, ended = self.supervisor.kill_all()
        if self.listener:
            self.listener.close()
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
            scrub.conclude(self, self._result())

    def _result(self):
        exit_code, number = _decode(self.status)
        cpu_us = max(0, self.supervisor.cpu_us() - self.cpu_start)
        oom_kills = self.supervisor.background.settle_oom(self.oom_start)
        # The kernel's limit may have been faster than ours; a program may also kill itself so.
        if number == signal.SIGXCPU and self.cpu_limit and cpu_us > self.cpu_limit * 1_000_000:
            self.cause = "cpu"
        return {
            "exit_code": exit_code,
            "signal": number,
            "cause": self.cause,
            "cpu_us": cpu_us,
            "peak_memory": accounting.peak_memory(),
            "oom_kills": oom_kills,
            "stage": "build" if self.building else "run",
            "full": [path for path in files.full_file_systems() if path not in self.full_start],
            "alone": self.alone,
            "interpreter": self._interpreter_state(),
            "fresh": self.fresh,
            "ended": self._others_ended(),
            "artifacts": self.supervisor.artifacts.scan(),
        }

    def _interpreter_state(self):
        if self.interpreter is None:
            return None
        return "kept" if self.supervisor.interpreters.get(self.driver) is self.interpreter else "gone"

    def _others_ended(self):
        """The kept interpreters whose state is gone, but for this run's own, of which the rest tells."""
        ended = self.supervisor.ended - ({self.driver} if self.interpreter else set())
        self.supervisor.ended.clear()
        return sorted(ended)


def become(request, theirs):
    """In a child: be the program of a run that is not kept."""
    os.environ.update(request["env"])
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
    """In the child: write the program down, if its build has not, and become `argv`."""
    processes.adopt(theirs[:3])
    files.enter_workspace()
    file = os.path.join(interpreters.CODE_DIRECTORY, request["file"])
    out = os.path.join(interpreters.CODE_DIRECTORY, request.get("out") or "main")
    try:
        if not request.get("written"):
            interpreters.write_program(file, request["code"])
    except OSError as error:
        os.write(2, f"sandbox: the program could not be written to /tmp: {error.strerror}\n".encode())
        os._exit(126)
    argv = [item.replace("{file}", file).replace("{out}", out) for item in request["argv"]] + request["args"]
    try:
        interpreters.execute(argv)
    except OSError as error:
        os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode())
        os._exit(127)
