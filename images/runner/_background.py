"""Background processes of a session: they outlive runs, and end with the session.

Each has a keeper, a child of ours that adopts all orphans below it (PR_SET_CHILD_SUBREAPER). So what a
background process starts, however it daemonises, descends from its keeper as long as that lives, and
nothing else ever can: that tells it from what a run has left behind (`_trees`). A keeper is not dumpable
and has nothing to steal. A program may kill it, as it may kill any other process here; then we adopt what it
kept, which belongs to nobody any more and ends.

When the command itself ends, all that it has started is ended.

  {"op": "process", "do": "start", "command": [...], "cwd": "a/b", "env": {...},
   "egress": null|{...}}         as for a run, for as long as the process lives
  {"op": "process", "do": "poll", "id": ..., "cursor": int|null, "limit": bytes, "for": "output"|"end"}
       STDOUT: what came on stdout, then what came on stderr. Waits for more or for the end, until END.
  {"op": "process", "do": "write", "id": ..., "data": base64, "close": bool}     all of it or nothing
  {"op": "process", "do": "signal", "id": ..., "number": int}                    9 ends all it has started
  {"op": "process", "do": "list"}
CLOSE {"ok": true, "cpu_us": of the sandbox but for its runs, "process": {...}} or "processes": [...]},
else as for file operations.
"""

import base64
import errno
import os
import signal
import time

import _accounting as accounting
import _files as files
import _processes as processes
import _trees as trees
import _wire as wire
from _background_process import Process
from _blame import Blame

MOST = 16
MOST_ENDED = 16
"""How many are remembered after their end."""
FLOOD_SECONDS = 0.02
"""Who has written `_background_process.FLOOD_BYTES` waits for the rest of it: we have others to serve."""


class Background:
    """All of them."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.processes = {}
        self.count = 0
        self.used_us = 0
        self.runs_us = 0
        """What runs that have ended were told they have used."""
        self.blame = Blame(self)
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

    def beside_runs_us(self):
        """CPU time of all here that no run was told of nor will be: what it is told at its end fits this."""
        run = self.supervisor.run
        runs_us = self.runs_us + (run.cpu_us() if run else 0)
        return max(0, accounting.cpu_us() - runs_us)

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

    # --- operations

    def open(self, number, request):
        """Answers at once, or returns a channel that will."""
        try:
            if request["do"] == "start":
                return self._start(number, request)
            if request["do"] == "list":
                answer(self.supervisor, number, processes=[each.view() for each in self.processes.values()])
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
            answer(self.supervisor, number, process=process.view())
        except OSError as error:
            self.supervisor.close(number, files.failure(error))
        return None

    def _start(self, number, request):
        living = [each for each in self.processes.values() if not each.ended]
        if len(living) >= MOST:
            raise OSError(errno.EUSERS, "too many")
        ahead = self.supervisor.residents.take_ahead()
        if ahead is not None:
            ahead.close()  # it ends: no program may meet it
        environment = self.supervisor.way_out.enter(request.get("egress"))
        request = {**request, "env": {**environment, **request["env"]}}
        self.count += 1
        name = f"p{self.count}-{os.urandom(2).hex()}"
        start = Start(self.supervisor, number)
        self.blame.joined()
        self.processes[name] = start.process = Process(self, name, request)
        ended = [each.name for each in self.processes.values() if each.ended]
        for old in ended[:-MOST_ENDED]:
            del self.processes[old]
        return start


def answer(supervisor, number, **facts):
    supervisor.close(number, {"ok": True, "cpu_us": supervisor.background.beside_runs_us(), **facts})


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
            answer(self.supervisor, self.number, process=self.process.view())
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
        told = {"stdout": len(out), "stderr": len(err), "missed": missed, "cursor": cursor}
        answer(self.supervisor, self.number, process=process.view(), **told)
