"""One run: its main process, its pipes, its end."""

import os
import signal
import time

import _accounting as accounting
import _files as files
import _interpreters as interpreters
import _processes as processes
import _scrub as scrub
import _wire as wire
from _blame import GLANCE_SECONDS
from _pipes import Pipes
from _program import become, decode

CPU_SECONDS = 0.05


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
        self.egress = request.get("egress")
        self.pipes = Pipes(self)
        self.cpu_limit = request.get("cpu")
        self.cpu_look_at = 0.0
        self.cpu_start = supervisor.cpu_us()
        self.blame = supervisor.background.blame
        self.blame.begin()
        self.full_start = files.full_file_systems()
        self.supervisor.artifacts.begin()

    # --- start

    def start(self):
        self.request["env"] = self.supervisor.way_out.enter(self.egress)
        try:
            self.theirs = self.pipes.make(self.request.get("stdin"))
            if self.building:
                self._start_build()
            else:
                self._start_program()
        except processes.NoProcess:
            self._refuse()

    def rehearse(self):
        """All of it but for the process: see `Supervisor._rehearse`."""
        self.request["env"] = self.supervisor.way_out.enter(None)
        self.theirs = self.pipes.make(False)
        os.close(interpreters.memory_file("cell", interpreters.python.pack(self.request)))
        self._close_theirs()
        self.finished = True
        self.pipes.drain()
        self.supervisor.note(processes.reap())
        wire.Writer(-1).send_json(wire.CLOSE, 0, self._result())

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
            self.pid = self.supervisor.residents.fork(lambda: become(request, fds))

    def _close_theirs(self):
        for fd in self.theirs:
            os.close(fd)
        self.theirs = ()

    def _go_on(self):
        """The build has gone well: be rid of what it may have left, then run what it made."""
        self.blame.last_look(self.pid, killed=False)
        alone, _ended = self.supervisor.residents.kill_all()
        if not alone:
            self._end()
            return
        self.building, self.pid, self.status = False, None, None
        try:
            self._start_program()
        except processes.NoProcess:
            self._refuse()

    def _start_cell(self):
        try:
            self._run_cell()
        except OSError as error:
            if self.supervisor.residents.is_crowded(error):
                raise
            self.supervisor.residents.kill_interpreters()
            self._run_cell()
        self.pid = self.interpreter.pid
        self.supervisor.on_readable(self.interpreter.control.fileno(), self._on_cell_done)

    def _run_cell(self):
        self.interpreter = self.supervisor.residents.interpreters.get(self.driver)
        if self.interpreter is None:
            self.interpreter = self.supervisor.residents.interpreters[self.driver] = self._new_interpreter()
            self.fresh = True
        self.interpreter.run(self.request, self.theirs, self.supervisor.residents.fork)

    def _new_interpreter(self):
        residents = self.supervisor.residents
        if self.driver == "python":
            return residents.take_ahead() or interpreters.Python(residents.fork, become)
        ahead = residents.take_ahead()
        if ahead is not None:
            ahead.close()  # it ends: no program may meet it
        argv = interpreters.DRIVERS[self.driver]
        return interpreters.Driven(residents.fork, argv, self.request["env"])

    def _hand_over(self, request, theirs):
        """Let the process that was forked ahead, if there still is one, become this run's."""
        ahead = self.supervisor.residents.take_ahead()
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

    def patience(self):
        """Seconds that the supervisor may wait, or None."""
        if self.finished or not (self.cpu_limit or self.blame.shared):
            return None
        return GLANCE_SECONDS if self.blame.shared else CPU_SECONDS

    def claims(self, pid):
        return pid == self.pid

    def feed(self, payload):
        self.pipes.feed(payload)

    def end_of_input(self):
        self.pipes.end_input()

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
            processes.interrupt(self.pid, self.supervisor.residents.untouched())

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
        if not self.finished:
            if self.pid in self.supervisor.statuses:
                self.status = self.supervisor.statuses.pop(self.pid)
                if self.building and self.status == 0:
                    self._go_on()
                else:
                    self._end()
            elif self._is_over_cpu():
                self._stop("cpu")
            else:
                self.blame.watch(self.pid)
        if self.finished:
            if self.pipes.drain():
                scrub.conclude(self, self._result())
        else:
            self.pipes.step()

    def _is_over_cpu(self):
        now = time.monotonic()
        if not self.cpu_limit or now < self.cpu_look_at:
            return False
        if self.blame.shared:  # then it takes a look at every process
            self.cpu_look_at = now + CPU_SECONDS
        return self.cpu_us() > self.cpu_limit * 1_000_000

    def cpu_us(self):
        """CPU time that it has used so far, in microseconds."""
        return max(0, self.supervisor.cpu_us() - self.cpu_start)

    # --- the end

    def _end(self):
        """Kill all that is left of the run and learn how its main process ended."""
        self.finished = True
        self.pipes.close_stdin()
        self._close_theirs()
        if not self.cause:
            killed = self.status is not None and os.WIFSIGNALED(self.status)
            self.blame.last_look(self.pid, killed and os.WTERMSIG(self.status) == signal.SIGKILL)
        if self.interpreter and self.cause:
            self.supervisor.residents.drop_interpreter(self.interpreter)
        self.alone, ended = self.supervisor.residents.kill_all()
        self.supervisor.way_out.step()
        for pid, status in ended:
            if pid == self.pid and self.status is None:
                self.status = status
        self.supervisor.statuses.pop(self.pid, None)

    def _result(self):
        exit_code, number = decode(self.status)
        cpu_us = self.cpu_us()
        self.supervisor.background.runs_us += cpu_us
        oom_kills, oom_unsure = self.blame.conclude()
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
            "oom_unsure": oom_unsure,
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
        kept = self.supervisor.residents.interpreters.get(self.driver)
        return "kept" if kept is self.interpreter else "gone"

    def _others_ended(self):
        """The kept interpreters whose state is gone, but for this run's own, of which the rest tells."""
        ended = self.supervisor.residents.ended - ({self.driver} if self.interpreter else set())
        self.supervisor.residents.ended.clear()
        return sorted(ended)
