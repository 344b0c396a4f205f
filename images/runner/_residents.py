"""Who may live beside a run and between runs, and the end of everybody else.

Residents are the kept interpreters, the process that was forked ahead for the next run, file operations
under way and, by descent, background processes.
"""

import os
import signal
import time

import _processes as processes
import _trees as trees
from _interpreters import Python
from _program import become

KILL_SECONDS = 2.0


class Residents:
    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.interpreters = {}
        """By driver."""
        self.ahead = None
        self.ended = set()
        """Drivers whose interpreter has ended since the last run's CLOSE."""

    def fork_ahead(self):
        """Make the process of the next run while nobody waits. No program ever meets it."""
        try:
            self.ahead = Python(processes.fork, become)
        except OSError:
            pass  # then the first run forks for itself, and says it if that fails too

    def take_ahead(self):
        """The process that was forked ahead, once; or None."""
        ahead, self.ahead = self.ahead, None
        return ahead

    def reaped(self, pid):
        for interpreter in list(self.interpreters.values()):
            if pid == interpreter.pid:
                self.drop_interpreter(interpreter)
        if self.ahead and pid == self.ahead.pid:
            self.take_ahead().close()

    def fork(self, body):
        """`processes.fork`. If kept interpreters hold what this takes (threads, memory), they have
        to go: between runs nobody else can."""
        try:
            return processes.fork(body)
        except OSError as error:
            run = self.supervisor.run
            if not self.interpreters or (run and not run.starting) or self.is_crowded(error):
                raise
        self.kill_interpreters()
        return processes.fork(body)

    def kill_all(self):
        """End all that a run has started. Returns (whether nothing else is left that could do
        anything, the (pid, wait status) of who was reaped)."""
        kept = [interpreter.pid for interpreter in self.interpreters.values()]
        until = time.monotonic() + KILL_SECONDS
        ended = []
        while True:
            roots = self.supervisor.background.roots()
            if roots:
                alone, fresh = trees.kill_all(self.spared(), roots, until, freeze=kept)
            else:
                alone, fresh = processes.kill_all(self.spared(), until, freeze=kept)
            self.supervisor.note(fresh)
            ended += fresh
            # A keeper that has ended meanwhile spares nobody any more.
            if not alone or roots == self.supervisor.background.roots():
                return alone, [(pid, status) for pid, status, _rusage in ended]

    def kill_interpreters(self):
        """End the kept interpreters between runs. Returns as `kill_all`, whether nothing else is left."""
        for interpreter in list(self.interpreters.values()):
            self.drop_interpreter(interpreter)
        alone, _ended = self.kill_all()
        return alone

    def drop_interpreter(self, interpreter):
        """Forget a kept interpreter; whoever calls has killed it or will."""
        for driver, one in list(self.interpreters.items()):
            if one is interpreter:
                del self.interpreters[driver]
                self.ended.add(driver)
                self.supervisor.ignore(interpreter.control.fileno())
                interpreter.close()

    def end_who_moved(self):
        """A kept interpreter that is not at work stands still. It may have made something that wakes it
        (a timer that sends SIGCONT): then it uses what nobody counts, so it ends, with all it started."""
        run = self.supervisor.run
        for interpreter in list(self.interpreters.values()):
            if run and run.pid == interpreter.pid:
                continue
            if processes.has_moved(interpreter.pid):
                if run is None:
                    self.kill_interpreters()
                    return
                os.kill(interpreter.pid, signal.SIGKILL)

    def see_that_all_is_still(self):
        """Before anything begins: nothing that was started between two calls may live on in the next."""
        self.end_who_moved()
        if self.ahead is not None:
            return  # no program has run yet, or what had was scrubbed
        still = all(processes.is_still(interpreter.pid) for interpreter in self.interpreters.values())
        if not (still and self._is_alone()):
            self.kill_interpreters()

    def _is_alone(self):
        roots = self.supervisor.background.roots()
        if not roots:
            return processes.is_alone(self.spared())
        # What a background process has left behind can be ended without a loss.
        return trees.is_alone(self.spared(), roots) or self.kill_all()[0]

    def is_crowded(self, error):
        """Whether background processes are why no other can be made: then ending others would not help."""
        return isinstance(error, processes.NoProcess) and bool(self.supervisor.background.roots())

    def untouched(self):
        """Processes that have nothing to do with the run."""
        return self.spared() | trees.members(self.supervisor.background.roots())

    def spared(self):
        """Processes that outlive a run: kept interpreters and file operations under way."""
        pids = {channel.pid for channel in self.supervisor.channels.values() if channel.outlives_runs}
        return pids | {interpreter.pid for interpreter in self.interpreters.values()}
