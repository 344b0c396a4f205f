"""The runner: PID 1 of every sandbox. Python standard library only.

Why PID 1, without any capability: the kernel drops every signal, SIGKILL included, that a
process sends to the init of its own PID namespace, so untrusted code can't kill us, and
`kill(-1, SIGKILL)` from here ends everything it started, however it daemonised. We are not
dumpable, so `/proc/1/{mem,fd,environ}` and ptrace are closed, and no child inherits our
descriptors: a program can't forge its own result. (Under gVisor a program can kill PID 1;
the host then sees the stream end and says that the sandbox was lost.)

THE WIRE, protocol 1. Our stdin and stdout carry frames, both ways:

    frame = length:u32 type:u8 channel:u32 payload         (big-endian; length counts the payload)

Channel 0 is control; the host numbers the others and never uses a number twice. From 2**31 on they are
tunnels, and ours to number: see _egress.py.

    host -> runner                                 runner -> host
     1 SETUP  0 {"preload": [module...]}            16 HELLO  0 {"protocol": 1}
     2 OPEN   n {"op": ...}                         17 READY  0 {"python": "3.13.5", ...}
     3 DATA   n bytes for the program's stdin,      18 STDOUT n bytes
              or of the file that is written        19 STDERR n bytes
     4 END    n no more DATA                        20 SIDE   n records: kind:u8 length:u32 body
     5 CREDIT n amount:u32                           5 CREDIT n amount:u32
     6 CANCEL n kill it now                         21 CLOSE  n {...}, exactly one, the channel's last
     7 INTERRUPT n stop the cell, keep its state    22 ACCEPT t a connection for the way out: a new tunnel

HELLO comes first; SETUP answers it; READY follows once the preload is imported and the process of
the first run is forked.
Flow control: each direction of a channel starts with a window of 256 KiB for DATA, or for
STDOUT, STDERR and SIDE together; CREDIT enlarges it. Who has no credit left does not send,
which holds the program back through its full pipe. Frames from the runner are at most 64 KiB.

Operations (OPEN):
  {"op": "ping"}                      CLOSE {"ok": true}
  {"op": "reset"}                     CLOSE {"ok": bool}: whether it is proved that of all runs nothing
                                      is left, kept interpreters included; files stay
  {"op": "trust", "pem": ...}         CLOSE as for write; certificates for the runs with `egress` from now on
  {"op": "scrub"}                     CLOSE {"ok": bool, "problem": text}: whether it is proved that all is as
                                      before the first run, and if not, why; files are gone in any case
  {"op": "write", "path": "a/b.csv", "append": false, "at": int|null, "mode": int|null}, then DATA... END
                                      CLOSE {"ok": true, "size": n} or
                                            {"ok": false, "error": "ENOSPC", "message": ...}
                                      Paths are relative to /workspace; parents are made.
  {"op": "read", ...}, and so list, search, edit (DATA: its edits), stat, create_dir, delete, move, copy:
       a file operation, while a run goes on or not. STDOUT is what it gives: bytes, or one JSON document.
       CLOSE as for write, with its facts. CANCEL ends it without a trace; _file_ops.py has the details.
  {"op": "process", "do": ...}        a background process, while a run goes on or not: see _background.py
  {"op": "run", "mode": "fork"|"spawn", "code": ..., "args": [...], "cpu": seconds|null,
   "stdin": bool, "keep": bool, "reuse": bool, "driver": null|"python"|"node"|"bash",
   "egress": null|{"tunnels": n, "env": {name: value}},
   "file": "main.py", "out": "main", "build": [...], "argv": ["/usr/bin/node", "{file}"]}
       fork:  the code runs in a fork of this interpreter.
       spawn: the code is written to a file and argv is executed; {file} and {out} in it become paths.
       With keep, the driver's interpreter runs the code as a cell and stays, so that variables live on
       in the next one; there is one interpreter for each driver.
       With egress, its environment has HTTP_PROXY and its like, the certificates to trust, and `env`.
       With build, that is executed first, under the same limits and with its output on stderr. If it
       fails the run ends there; if not, what it left running is killed before the program starts.
       INTERRUPT sends SIGINT to all of a cell, once; an interpreter that then ends it in time is kept.
       One run at a time. When its main process ends, everything else that it started is
       killed (but background processes), what is left in its pipes is sent, and then comes
       CLOSE {"exit_code": int|null, "signal": int|null,
              "cause": null|"cancelled"|"cpu"|"no_process",   why we killed it, or that none could be made
              "stage": "build"|"run",               how far it came
              "cpu_us": int|null, "peak_memory": bytes|null, "oom_kills": int,
              "full": [paths of file systems of which it has taken the last space or inode],
              "alone": bool,        proved: nothing of the run is left; if not, destroy the sandbox
              "interpreter": null|"kept"|"gone",    null: none was asked to run anything
              "fresh": bool,                        this cell was its first
              "ended": [drivers],   other kept interpreters that have ended since the last run's CLOSE
              "clean": bool,        with "reuse": proved as by a scrub, which then needs no asking for
              "artifacts": {"files": [["plots/a%20b.png", size]...], "omitted": n, "complete": bool}}
                                    regular files in /workspace that it created or changed: paths below it,
                                    percent-encoded bytes; how many more there are; whether all was looked at

SIDE records come from inside the program's own process and are worth what it is worth:
kind 1 is the last expression's repr, kind 2 a display: its MIME type, NUL, its bytes, kind 3 (empty)
that what ended it is an OSError for lack of space.
"""

import gc
import json
import os
import platform
import select
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import _accounting as accounting
import _artifacts as artifacts
import _egress as egress
import _files as files
import _processes as processes
import _scrub as scrub
import _still as still
import _trees as trees
import _wire as wire
from _background import Background
from _interpreters import Python
from _run import Run, become

CPU_CHECK_MS = 50
OUT_HIGH_WATER = 1024 * 1024
KILL_SECONDS = 2.0


class Supervisor:
    """One event loop over the wire, the pipes of the current run, and SIGCHLD."""

    def __init__(self, wire_in, wire_out):
        self.poll = select.poll()
        self.out = wire.Writer(wire_out)
        self.decoder = wire.Decoder()
        self.wire_in = wire_in
        self.wake = processes.wake_on_sigchld()
        self.readers = {}
        self.writers = {}
        self.channels = {}
        self.run = None
        self.interpreters = {}
        self.ahead = None
        self.ended = set()
        self.statuses = {}
        self.way_out = egress.WayOut()
        self.artifacts = artifacts.Artifacts()
        self.background = Background(self)
        self.poll.register(wire_in, select.POLLIN)
        self.poll.register(self.wake, select.POLLIN)

    # --- the loop

    def serve(self):
        self.out.send_json(wire.HELLO, 0, {"protocol": 1})
        while True:
            self.out.flush()
            self._watch_wire_out()
            for fd, _event in self.poll.poll(self._patience_ms()):
                if fd == self.wire_in:
                    if not self._read_wire():
                        return
                elif fd == self.wake:
                    processes.drain(self.wake)
                    still.end_who_moved(self)
                    self.background.wake_keepers()
                elif fd in self.readers:
                    self.readers[fd](fd)
                elif fd in self.writers:
                    self.writers[fd](fd)
            self.background.breathe()
            self._note(processes.reap())
            if self.background.orphans and (self.run is None or self.run.finished):
                self.background.orphans = False
                self.kill_all()
            for channel in list(self.channels.values()):
                channel.step()

    def _patience_ms(self):
        waits = [CPU_CHECK_MS] if self.run and self.run.needs_checks else []
        if (seconds := self.background.patience()) is not None:
            waits.append(int(seconds * 1000) + 1)
        return min(waits, default=None)

    def _watch_wire_out(self):
        if self.out.pending:
            self.poll.register(self.out.fd, select.POLLOUT)
        else:
            self._forget(self.out.fd)

    def _read_wire(self):
        data = processes.read(self.wire_in, 256 * 1024)
        if data is None:
            return True
        for kind, number, payload in self.decoder.feed(data):
            self._dispatch(kind, number, payload)
        return bool(data)

    def _note(self, ended):
        """Who has ended: keep the status of those that a channel waits for."""
        for pid, status, _rusage in ended:
            for interpreter in list(self.interpreters.values()):
                if pid == interpreter.pid:
                    self.drop_interpreter(interpreter)
            if self.ahead and pid == self.ahead.pid:
                self.take_ahead().close()
            self.background.reaped(pid)
            if any(channel.claims(pid) for channel in self.channels.values()):
                self.statuses[pid] = status

    # --- frames

    def _dispatch(self, kind, number, payload):
        if kind == wire.SETUP:
            self._set_up(json.loads(payload))
        elif kind == wire.OPEN:
            self._open(number, json.loads(payload))
        elif number in self.channels:
            channel = self.channels[number]
            if kind == wire.DATA:
                channel.feed(payload)
            elif kind == wire.END:
                channel.end_of_input()
            elif kind == wire.CREDIT:
                channel.credit += int.from_bytes(payload, "big")
            elif kind == wire.CANCEL:
                channel.cancel()
            elif kind == wire.INTERRUPT and channel is self.run:
                channel.interrupt()

    def _set_up(self, setup):
        failed = {}
        for name in setup.get("preload", ()):
            try:
                __import__(name)
            except Exception as error:
                failed[name] = repr(error)[:200]
        processes.clear_preload_traces()
        gc.collect()
        gc.freeze()
        self.baseline = scrub.Baseline()
        self.fork_ahead()
        self.out.send_json(
            wire.READY,
            0,
            {
                "python": platform.python_version(),
                "preload_failed": failed,
                "accounting": accounting.SOURCE,
                "pid": os.getpid(),
                "uid": os.getuid(),
            },
        )

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

    def _open(self, number, request):
        op = request["op"]
        if self.run is None:
            still.see_to_it(self)
        self.artifacts.opened(number, request)
        if (op in ("run", "reset") and self.run is not None) or (op == "scrub" and self.channels):
            self.close(number, {"ok": False, "error": "EBUSY", "message": "a run is going on"})
        elif op == "run":
            self.run = self.channels[number] = Run(self, number, request)
            self.run.start()
        elif op in files.NAMES:
            try:
                self.channels[number] = files.Operation(self, number, request)
            except OSError as error:
                self.close(number, files.failure(error))
        elif op == "process":
            channel = self.background.open(number, request)
            if channel is not None:
                self.channels[number] = channel
        elif op == "reset":
            self.background.clear()
            self.close(number, {"ok": self.kill_interpreters()})
            self.ended.clear()  # who asked for it knows
        elif op == "trust":
            self.close(number, egress.trust(self, request["pem"]))
        elif op == "scrub":
            scrub.Scrub(self, number).start()
        elif op == "ping":
            self.close(number, {"ok": True})
        else:
            self.close(number, {"ok": False, "error": "EINVAL", "message": "unknown operation"})

    # --- what channels call

    def close(self, number, result):
        """Send CLOSE and forget the channel."""
        self.artifacts.closed(number, result)
        channel = self.channels.pop(number, None)
        if channel is not None and channel is self.run:
            self.run = None
        self.out.send_json(wire.CLOSE, number, result)

    def fork(self, body):
        """`processes.fork`. If kept interpreters hold what this takes (threads, memory), they have
        to go: between runs nobody else can."""
        try:
            return processes.fork(body)
        except OSError as error:
            if not self.interpreters or (self.run and not self.run.starting) or self.is_crowded(error):
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
            roots = self.background.roots()
            if roots:
                alone, fresh = trees.kill_all(self.spared(), roots, until, freeze=kept)
            else:
                alone, fresh = processes.kill_all(self.spared(), until, freeze=kept)
            self._note(fresh)
            ended += fresh
            # A keeper that has ended meanwhile spares nobody any more.
            if not alone or roots == self.background.roots():
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
                self.ignore(interpreter.control.fileno())
                interpreter.close()

    def on_readable(self, fd, callback):
        self.readers[fd] = callback
        self.poll.register(fd, select.POLLIN)

    def on_writable(self, fd, callback):
        self.writers[fd] = callback
        self.poll.register(fd, select.POLLOUT)

    def ignore(self, fd):
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)
        self._forget(fd)

    def _forget(self, fd):
        try:
            self.poll.unregister(fd)
        except KeyError:
            pass

    @property
    def congested(self):
        """The host reads more slowly than programs write: hold the pipes back."""
        return self.out.pending > OUT_HIGH_WATER

    def cpu_us(self):
        """CPU time of all but background processes, in microseconds."""
        return accounting.cpu_us() - self.background.cpu_us()

    def is_crowded(self, error):
        """Whether background processes are why no other can be made: then ending others would not help."""
        return isinstance(error, processes.NoProcess) and bool(self.background.roots())

    def untouched(self):
        """Processes that have nothing to do with the run."""
        return self.spared() | trees.members(self.background.roots())

    def spared(self):
        """Processes that outlive a run: kept interpreters and file operations under way."""
        pids = {channel.pid for channel in self.channels.values() if channel.outlives_runs}
        return pids | {interpreter.pid for interpreter in self.interpreters.values()}


def main():
    processes.become_untouchable()
    wire_in, wire_out = processes.take_wire()
    try:
        Supervisor(wire_in, wire_out).serve()
    finally:
        # The host is gone: nothing here may outlive it. PID 1's exit ends the namespace.
        processes.kill_all(spare=frozenset(), until=time.monotonic() + 1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


if __name__ == "__main__":
    main()
