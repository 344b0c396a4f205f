"""The pipes of a run: its stdin, and what it writes to stdout, stderr and the side channel."""

import os

import _processes as processes
import _wire as wire

DRAIN_LIMIT = 4 * 1024 * 1024


class Pipes:
    """Our ends. What may be sent is the credit of the channel that they belong to."""

    def __init__(self, channel):
        self.channel = channel
        self.supervisor = channel.supervisor
        self.stdin = None
        self.pending = bytearray()
        self.input_ended = False
        self.kinds = {}
        self.drained = 0

    def make(self, stdin):
        """Returns theirs: stdin, or nothing to read if it is not asked for, stdout, stderr, side."""
        if stdin:
            first, self.stdin = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.stdin, False)
        else:
            first = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        theirs = [first]
        for kind in (wire.STDOUT, wire.STDERR, wire.SIDE):
            ours, other = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(ours, False)
            self.kinds[ours] = kind
            self.supervisor.on_readable(ours, self._on_readable)
            theirs.append(other)
        return theirs

    # --- to the program

    def feed(self, payload):
        self.pending += payload
        self._pump()

    def end_input(self):
        self.input_ended = True
        self._pump()

    def _pump(self, _fd=None):
        if self.stdin is None:
            return
        try:
            while self.pending:
                sent = os.write(self.stdin, memoryview(self.pending)[: 64 * 1024])
                del self.pending[:sent]
                self.supervisor.out.send_credit(self.channel.number, sent)
        except BlockingIOError:
            if self.stdin not in self.supervisor.writers:
                self.supervisor.on_writable(self.stdin, self._pump)
            return
        except BrokenPipeError:
            # The program has closed its stdin: swallow the rest, as a shell pipe would.
            self.supervisor.out.send_credit(self.channel.number, len(self.pending))
            self.pending.clear()
        self.supervisor.ignore(self.stdin)
        if self.input_ended:
            self.close_stdin()

    def close_stdin(self):
        if self.stdin is not None:
            self.supervisor.ignore(self.stdin)
            os.close(self.stdin)
            self.stdin = None

    # --- from the program

    def step(self):
        """Read as long as there is credit."""
        if self.channel.credit > 0 and not self.supervisor.congested:
            for fd in self.kinds:
                if fd not in self.supervisor.readers:
                    self.supervisor.on_readable(fd, self._on_readable)

    def _on_readable(self, fd):
        allowed = min(self.channel.credit, wire.MAX_PAYLOAD)
        if allowed <= 0 or self.supervisor.congested:
            self.supervisor.ignore(fd)
            return
        data = processes.read(fd, allowed)
        if data is None:
            return
        if not data:
            self._close(fd)
            return
        self.channel.credit -= len(data)
        if self.channel.finished:
            self.drained += len(data)
        self.supervisor.out.send(self.kinds[fd], self.channel.number, data)

    def _close(self, fd):
        self.supervisor.ignore(fd)
        del self.kinds[fd]
        os.close(fd)

    def drain(self):
        """Send what is still in them, as far as credit goes. Returns whether that was all."""
        for fd in list(self.kinds):
            while fd in self.kinds and self.channel.credit > 0 and not self.supervisor.congested:
                before = self.channel.credit
                self._on_readable(fd)
                if self.channel.credit == before and fd in self.kinds:
                    # Nothing more to read although somebody holds the other end: a kept interpreter.
                    self._close(fd)
            if fd in self.kinds and self.drained > DRAIN_LIMIT:
                self._close(fd)
        return not self.kinds
