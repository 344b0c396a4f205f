"""The runner: PID 1 of every sandbox. Python standard library only.

Why PID 1, without any capability: the kernel drops every signal, SIGKILL included, that a
process sends to the init of its own PID namespace, so untrusted code can't kill us, and
`kill(-1, SIGKILL)` from here ends everything it started, however it daemonised. We are not
dumpable, so `/proc/1/{mem,fd,environ}` and ptrace are closed, and no child inherits our
descriptors: a program can't forge its own result. (Under gVisor a program can kill PID 1;
the host then sees the stream end and says that the sandbox was lost.)

README.md beside this documents the wire.
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
import _wire as wire
from _background import Background
from _loop import Loop
from _residents import Residents
from _run import Run

REHEARSAL = b'{"op": "run", "mode": "fork", "code": "", "args": [], "cpu": 1, "file": "main.py"}'


class Supervisor(Loop):
    """One event loop over the wire, the pipes of the current run, and SIGCHLD."""

    def __init__(self, wire_in, wire_out):
        super().__init__(wire_out)
        self.decoder = wire.Decoder()
        self.wire_in = wire_in
        self.wake = processes.wake_on_sigchld()
        self.channels = {}
        self.run = None
        self.statuses = {}
        self.way_out = egress.WayOut(self)
        self.artifacts = artifacts.Artifacts()
        self.background = Background(self)
        self.residents = Residents(self)
        self.poll.register(wire_in, select.POLLIN)
        self.poll.register(self.wake, select.POLLIN)

    # --- the loop

    def serve(self):
        self.out.send_json(wire.HELLO, 0, {"protocol": 1})
        while True:
            self.out.flush()
            self.watch_wire_out()
            for fd, _event in self.poll.poll(self._patience_ms()):
                if fd == self.wire_in:
                    if not self._read_wire():
                        return
                elif fd == self.wake:
                    processes.drain(self.wake)
                    self.residents.end_who_moved()
                    self.background.wake_keepers()
                elif fd in self.readers:
                    self.readers[fd](fd)
                elif fd in self.writers:
                    self.writers[fd](fd)
            self.background.breathe()
            self.note(processes.reap())
            if self.background.orphans and (self.run is None or self.run.finished):
                self.background.orphans = False
                self.residents.kill_all()
            for channel in list(self.channels.values()):
                channel.step()
            self.way_out.step()

    def _patience_ms(self):
        patient = [self.background, self.way_out, *([self.run] if self.run else [])]
        waits = [seconds for each in patient if (seconds := each.patience()) is not None]
        return min((int(seconds * 1000) + 1 for seconds in waits), default=None)

    def _read_wire(self):
        data = processes.read(self.wire_in, 256 * 1024)
        if data is None:
            return True
        for kind, number, payload in self.decoder.feed(data):
            self._dispatch(kind, number, payload)
        return bool(data)

    def note(self, ended):
        """Who has ended: keep the status of those that a channel waits for."""
        for pid, status, _rusage in ended:
            self.residents.reaped(pid)
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
        self.residents.fork_ahead()
        self._rehearse()
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

    def _rehearse(self):
        """Go through a run without a process: what a fork shares is copied when it is first written, and that
        is better done before anybody waits."""
        frame = wire.HEADER.pack(len(REHEARSAL), wire.OPEN, 0) + REHEARSAL
        for _kind, number, payload in wire.Decoder().feed(frame):
            Run(self, number, json.loads(payload)).rehearse()

    def _open(self, number, request):
        op = request["op"]
        if self.run is None:
            self.residents.see_that_all_is_still()
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
            alone = self.residents.kill_interpreters()
            self.way_out.step()
            self.close(number, {"ok": alone, "cpu_us": self.background.beside_runs_us()})
            self.residents.ended.clear()  # who asked for it knows
        elif op == "trust":
            self.close(number, egress.trust(self, request["pem"]))
        elif op == "scrub":
            scrub.Scrub(self, number).start()
        elif op == "ping":
            self.close(number, {"ok": True, "cpu_us": self.background.beside_runs_us()})
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

    def cpu_us(self):
        """CPU time of all but background processes, in microseconds."""
        return accounting.cpu_us() - self.background.cpu_us()


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
