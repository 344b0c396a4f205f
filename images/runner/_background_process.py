"""One background process: its pipes, what it has said, its end. What it is for: see `_background`."""

import errno
import fcntl
import os
import signal
import time

import _keeper as keeper
import _processes as processes
import _trees as trees
from _ring import Ring

FIRST_FD = 100
"""Theirs are kept away from the low numbers, which runs and what starts them need."""
STDIN_ROOM = 64 * 1024
FLOOD_BYTES = 256 * 1024
DRAIN_LIMIT = 1024 * 1024
KILL_SECONDS = 2.0
SHOWN = 120
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


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
        self.egress = request.get("egress")
        self.pid = None
        self.failed = None
        self.status = None
        self.ended = False
        self.killed = False
        self.oom = self.hit = False
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
            self.keeper = processes.fork(lambda: keeper.keep(request, theirs))
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
                if self.killed:
                    self.kill()  # it was to be ended before it was there
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
        kept = self.supervisor.residents.interpreters.values()
        return {each.pid for each in kept if not run or run.pid != each.pid}

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
            self.oom = by_kill and not by_us and (self.hit or self.background.blame.claim())
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
