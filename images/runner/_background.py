"""Background processes of a session: they outlive runs, and end with the session.

Each has a keeper, a child of ours that adopts all orphans below it (PR_SET_CHILD_SUBREAPER). So what a
background process starts, however it daemonises, descends from its keeper as long as that lives, and
nothing else ever can: that tells it from what a run has left behind (`_trees`). A keeper is not dumpable
and has nothing to steal. A program may kill it, as it may kill any other process here; then we adopt what it
kept, which belongs to nobody any more and ends.

When the command itself ends, all that it has started is ended.

  {"op": "process", "do": "start", "command": [...], "cwd": "a/b", "env": {...}}
  {"op": "process", "do": "poll", "id": ..., "cursor": int|null, "limit": bytes, "for": "output"|"end"}
       STDOUT: what came on stdout, then what came on stderr. Waits for more or for the end, until END.
  {"op": "process", "do": "write", "id": ..., "data": base64, "close": bool}     all of it or nothing
  {"op": "process", "do": "signal", "id": ..., "number": int}                    9 ends all it has started
  {"op": "process", "do": "list"}
CLOSE {"ok": true, "process": {...}} or {"ok": true, "processes": [...]}, else as for file operations.
"""

import base64
import ctypes
import errno
import fcntl
import os
import signal
import time

import _accounting as accounting
import _files as files
import _interpreters as interpreters
import _processes as processes
import _trees as trees
import _wire as wire
from _ring import Ring

MOST = 16
MOST_ENDED = 16
"""How many are remembered after their end."""
FIRST_FD = 100
"""Theirs are kept away from the low numbers, which runs and what starts them need."""
STDIN_ROOM = 64 * 1024
FLOOD_BYTES = 256 * 1024
FLOOD_SECONDS = 0.02
"""Who writes more than that in this time waits for the rest of it: we have others to serve."""
DRAIN_LIMIT = 1024 * 1024
KILL_SECONDS = 2.0
OOM_GRACE = 0.02
SHOWN = 120
PR_SET_CHILD_SUBREAPER = 36
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Background:
    """All of them."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.processes = {}
        self.count = 0
        self.used_us = 0
        self.oom_known = self.oom_mine = 0
        self.flooded = []
        self.resume_at = 0.0
        self.orphans = False
        """A keeper has ended before its time: what it kept must not be left over."""

    # --- what the supervisor asks

    def roots(self):
        """The pids of living keepers."""
        return {each.keeper for each in self.processes.values() if each.keeper}

    def reaped(self, pid):
        for each in list(self.processes.values()):
            if each.keeper == pid:
                each.keeper_ended()

    def wake_keepers(self):
        """Somebody may have stopped one: it has nothing to do with programs, and goes on."""
        for pid in self.roots():
            if processes.has_moved(pid):
                processes.signal_each([pid], signal.SIGCONT)

    def cpu_us(self):
        """CPU time of all of them so far."""
        living = [each for each in self.processes.values() if each.keeper]
        table = trees.parents() if living else {}
        return self.used_us + sum(each.count_cpu(table) for each in living)

    def patience(self):
        """Seconds that the supervisor may wait, or None."""
        return max(0.0, self.resume_at - time.monotonic()) if self.flooded else None

    def breathe(self):
        if self.flooded and time.monotonic() >= self.resume_at:
            flooded, self.flooded = self.flooded, []
            for each in flooded:
                each.resume()

    def pause(self, process):
        if not self.flooded:
            self.resume_at = time.monotonic() + FLOOD_SECONDS
        self.flooded.append(process)

    def clear(self):
        """Forget them all; whoever calls ends everything."""
        for each in self.processes.values():
            each.forget()
        self.processes.clear()
        self.flooded.clear()

    def blame_oom(self):
        """Whether the kernel has killed for memory, and nobody was told yet to be the one."""
        if accounting.oom_kills() <= self.oom_known:
            return False
        self.oom_known += 1
        self.oom_mine += 1
        return True

    def oom_kills_of_runs(self):
        return accounting.oom_kills() - self.oom_mine

    def settle_oom(self, since):
        """How many the kernel has killed for memory since `oom_kills_of_runs` was `since` that were not the
        commands of background processes; from here on these are known."""
        if self.roots() and self.oom_kills_of_runs() > since:
            time.sleep(OOM_GRACE)  # for a keeper to say that it was its process
            for each in list(self.processes.values()):
                each.look()
        self.oom_known = accounting.oom_kills()
        return max(0, self.oom_known - self.oom_mine - since)

    # --- operations

    def open(self, number, request):
        """Answers at once, or returns a channel that will."""
        try:
            if request["do"] == "start":
                return self._start(number, request)
            if request["do"] == "list":
                self.supervisor.close(
                    number, {"ok": True, "processes": [each.view() for each in self.processes.values()]}
                )
                return None
            process = self.processes.get(request["id"])
            if process is None:
                raise OSError(errno.ENOENT, "no such process")
            if request["do"] == "poll":
                return Poll(self.supervisor, number, process, request)
            if request["do"] == "write":
                process.write(base64.b64decode(request["data"]), request["close"])
            elif not process.signal(request["number"]):
                raise OSError(errno.EBUSY, "it could not be ended")
            self.supervisor.close(number, {"ok": True, "process": process.view()})
        except OSError as error:
            self.supervisor.close(number, files.failure(error))
        return None

    def _start(self, number, request):
        living = [each for each in self.processes.values() if not each.ended]
        if len(living) >= MOST:
            raise OSError(errno.EUSERS, "too many")
        ahead = self.supervisor.take_ahead()
        if ahead is not None:
            ahead.close()  # it ends: no program may meet it
        self.count += 1
        name = f"p{self.count}-{os.urandom(2).hex()}"
        start = Start(self.supervisor, number)
        if not living:
            self.oom_known = accounting.oom_kills()
        self.processes[name] = start.process = Process(self, name, request)
        ended = [each.name for each in self.processes.values() if each.ended]
        for old in ended[:-MOST_ENDED]:
            del self.processes[old]
        return start


class Start:
    """The channel of a start, until its keeper says how it went."""

    outlives_runs = False
    process = None

    def __init__(self, supervisor, number):
        self.supervisor = supervisor
        self.number = number
        self.credit = wire.WINDOW

    def claims(self, _pid):
        return False

    def feed(self, _payload):
        pass

    def end_of_input(self):
        pass

    def cancel(self):
        self.process.kill()

    def step(self):
        if self.process.pid:
            self.supervisor.close(self.number, {"ok": True, "process": self.process.view()})
        elif self.process.ended:
            self.supervisor.background.processes.pop(self.process.name, None)
            error = OSError(self.process.failed or errno.ECANCELED, "")
            self.supervisor.close(self.number, files.failure(error))


class Poll(Start):
    """The channel of a poll, until there is something to tell or END says that it has waited long enough."""

    def __init__(self, supervisor, number, process, request):
        super().__init__(supervisor, number)
        self.process = process
        self.cursor = process.told if request["cursor"] is None else request["cursor"]
        self.limit = min(request["limit"], wire.WINDOW // 2)
        self.for_end = request["for"] == "end"
        self.waited = False

    def end_of_input(self):
        self.waited = True

    def cancel(self):
        self.supervisor.close(self.number, files.KILLED)

    def step(self):
        process = self.process
        news = process.ring.end > self.cursor and not self.for_end
        if not (self.waited or process.ended or news):
            return
        out, err, cursor, missed = process.ring.read(self.cursor, self.limit)
        process.told = cursor
        data = out + err
        for at in range(0, len(data), wire.MAX_PAYLOAD):
            self.supervisor.out.send(wire.STDOUT, self.number, data[at : at + wire.MAX_PAYLOAD])
        answer = {"ok": True, "stdout": len(out), "stderr": len(err), "missed": missed, "cursor": cursor}
        self.supervisor.close(self.number, {**answer, "process": process.view()})


class Process:
    """One, with its keeper. `keeper` is None once that is gone, `pid` until it has said what it started."""

    def __init__(self, background, name, request):
        self.background = background
        self.supervisor = background.supervisor
        self.name = name
        self.command = " ".join(request["command"])[:SHOWN]
        self.since = time.monotonic()
        self.ring = Ring()
        self.told = 0
        self.pid = None
        self.failed = None
        self.status = None
        self.ended = False
        self.killed = False
        self.oom = False
        self.pending = bytearray()
        self.closing = False
        self.budget = FLOOD_BYTES
        self.counted = self.ticks = 0
        self.heard = b""
        self.streams = {}
        self.stdin = self.report = self.keeper = None
        theirs = []
        try:
            theirs = self._pipes()
            self.keeper = processes.fork(lambda: _keep(request, theirs))
        except OSError:
            self.forget()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in (*self.streams, self.report):
            self.supervisor.on_readable(fd, self._on_readable)

    def _pipes(self):
        """Our ends go into self; returns theirs: stdin, stdout, stderr, report."""
        theirs = []
        try:
            for index in range(4):
                read, write = os.pipe2(os.O_CLOEXEC)
                ours, other = (write, read) if index == 0 else (read, write)
                theirs.append(other)
                try:
                    high = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
                finally:
                    os.close(ours)
                os.set_blocking(high, False)
                if index == 0:
                    self.stdin = high
                elif index == 3:
                    self.report = high
                else:
                    self.streams[high] = index - 1
        except OSError:
            for fd in theirs:
                os.close(fd)
            # EINVAL: the limit is below where ours begin.
            raise OSError(errno.EMFILE, "too few open files") from None
        return theirs

    # --- what the keeper and the program say

    def look(self):
        if self.report is not None:
            self._on_readable(self.report)

    def _on_readable(self, fd):
        data = processes.read(fd)
        if fd == self.report:
            self._hear(data)
            return
        if data is None:
            return
        if not data:
            self._close(fd)
            return
        self.ring.feed(self.streams[fd], data)
        self.budget -= len(data)
        if self.budget <= 0:
            for each in self.streams:
                self.supervisor.ignore(each)
            self.background.pause(self)

    def resume(self):
        self.budget = FLOOD_BYTES
        for fd in self.streams:
            if fd not in self.supervisor.readers:
                self.supervisor.on_readable(fd, self._on_readable)

    def _hear(self, data):
        """Only the keeper and we hold this pipe."""
        if data is None:
            return
        self.heard += data
        *lines, self.heard = self.heard.split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"started":
                self.pid = int(number)
            elif word == b"failed":
                self.failed = int(number)
                self._finish()
            elif word == b"ended":
                self.status = int(number)
                self._finish()
        if not data and self.report is not None:
            self._close_report()

    def keeper_ended(self):
        """It never ends by itself. What it kept is nobody's now, and ends with all that is nobody's."""
        self.keeper = None
        self.background.used_us += self.counted
        if self.ended:
            return
        self.look()
        self._finish()
        self.background.orphans = True

    # --- what is done to it

    def write(self, data, close):
        if self.stdin is None or self.closing:
            raise OSError(errno.EPIPE, "its stdin is closed")
        if len(self.pending) + len(data) > STDIN_ROOM:
            raise OSError(errno.EAGAIN, "it does not read")
        self.pending += data
        self.closing = close
        self._pump()

    def _pump(self, _fd=None):
        try:
            while self.pending:
                del self.pending[: os.write(self.stdin, self.pending)]
        except BlockingIOError:
            if self.stdin not in self.supervisor.writers:
                self.supervisor.on_writable(self.stdin, self._pump)
            return
        except BrokenPipeError:
            self.closing = True
            self.pending.clear()
        self.supervisor.ignore(self.stdin)
        if self.closing:
            self._close_stdin()

    def signal(self, number):
        if self.ended or not self.pid:
            raise OSError(errno.ESRCH, "it has ended")
        if number == signal.SIGKILL:
            return self.kill()
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # it is just ending
        return True

    def kill(self):
        """End it and all that it has started. Returns whether that is proved."""
        self.killed = True
        gone = True
        if self.keeper:
            self.count_cpu()
            gone = trees.kill_tree(self.keeper, time.monotonic() + KILL_SECONDS, self._at_rest())
            if not gone:
                # Then it is nobody's, and without a run nothing that is nobody's may live.
                processes.signal_each([self.keeper], signal.SIGKILL)
        return gone

    def _at_rest(self):
        run = self.supervisor.run
        return {each.pid for each in self.supervisor.interpreters.values() if not run or run.pid != each.pid}

    # --- its end

    def _finish(self):
        """Its command has ended, or was never started, or its keeper is gone."""
        if self.ended:
            return
        by_us, self.ended = self.killed, True
        self.kill()
        if self.keeper:
            processes.signal_each([self.keeper], signal.SIGKILL)
        if self.status is not None and os.WIFSIGNALED(self.status):
            by_kill = os.WTERMSIG(self.status) == signal.SIGKILL
            self.oom = by_kill and not by_us and self.background.blame_oom()
        self._drain()
        self.forget()

    def _drain(self):
        """What is still in its pipes. Their other ends may be held by somebody who lives on."""
        left = DRAIN_LIMIT
        for fd, stream in self.streams.items():
            while left > 0 and (data := processes.read(fd)):
                self.ring.feed(stream, data)
                left -= len(data)
        self.ring.finish()

    def forget(self):
        """Close all that we have of it, but for what it has said."""
        self.ended = True
        self.pending.clear()
        for fd in list(self.streams):
            self._close(fd)
        self._close_stdin()
        self._close_report()

    def _close(self, fd):
        del self.streams[fd]
        self.supervisor.ignore(fd)
        os.close(fd)

    def _close_stdin(self):
        if self.stdin is not None:
            self.supervisor.ignore(self.stdin)
            os.close(self.stdin)
            self.stdin = None

    def _close_report(self):
        if self.report is not None:
            self.supervisor.ignore(self.report)
            os.close(self.report)
            self.report = None

    # --- what is told of it

    def count_cpu(self, table=None):
        """CPU time of its tree in microseconds. What vanishes (a parent that does not wait for its children)
        must not turn the clock back."""
        ticks = trees.cpu_ticks(trees.members({self.keeper}, table))
        self.counted += max(0, ticks - self.ticks) * TICK_US
        self.ticks = ticks
        return self.counted

    def view(self):
        exited = self.status is not None and os.WIFEXITED(self.status)
        signalled = self.status is not None and os.WIFSIGNALED(self.status)
        return {
            "id": self.name,
            "command": self.command,
            "running": not self.ended,
            "exit_code": os.WEXITSTATUS(self.status) if exited else None,
            "signal": os.WTERMSIG(self.status) if signalled else None,
            "oom": self.oom,
            "age": round(time.monotonic() - self.since, 3),
            "written": self.ring.end,
            "stdin": None if self.stdin is None or self.closing else len(self.pending),
        }


def _keep(request, fds):
    """In a child: be the keeper. Its fds: the program's stdin, stdout and stderr, and where to report."""
    processes.adopt(fds, private=True)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        os.write(3, b"failed %d\n" % errno.ENOSYS)
        return
    try:
        pid = os.fork()
    except OSError as error:
        os.write(3, b"failed %d\n" % (error.errno or errno.EAGAIN))
        return
    if pid == 0:
        _become(request)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.write(3, b"started %d\n" % pid)
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            signal.pause()
            continue
        if ended == pid:
            os.write(3, b"ended %d\n" % status)


def _become(request):
    """In the keeper's child: be the program."""
    command = request["command"]
    what = request["cwd"]
    try:
        os.setsid()
        processes.adopt((0, 1, 2))
        files.enter_workspace()
        os.chdir(what)
        what = command[0]
        os.environ.update(request["env"])
        interpreters.execute(command, search=True)
    except OSError as error:
        os.write(2, f"sandbox: {what}: {error.strerror}\n".encode(errors="replace"))
        os._exit(126 if error.errno == errno.EACCES else 127)
    except BaseException as error:
        os.write(2, f"sandbox: {error}\n".encode(errors="replace"))
    finally:
        os._exit(126)
