"""One connection of a program to the way out, as a channel: see `_egress`."""

import fcntl
import os
import resource
import socket

import _processes as processes
import _wire as wire

FIRST_FD = min(100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
"""Theirs are kept away from the low numbers: the next run needs some, whatever lives on beside it."""


class Tunnel:
    """One connection. DATA and END go both ways; CLOSE is our last word and CANCEL the host's, which still
    lets what it has sent before go out. It is forgotten when both were said."""

    outlives_runs = False
    pid = None

    def __init__(self, supervisor, number, connection):
        self.supervisor = supervisor
        self.reader = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
        self.connection = socket.socket(fileno=self.reader)
        try:
            self.connection.setblocking(False)
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Polled for each direction on its own.
            self.writer = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
        except OSError:
            self.connection.close()
            raise
        self.number = number
        self.credit = wire.TUNNEL_WINDOW
        self.pending = bytearray()
        self.reading = True
        self.input_ended = False
        self.released = False
        self.closed = False

    def claims(self, _pid):
        return False

    # --- from the host

    def feed(self, payload):
        if not self.closed:
            self.pending += payload
            self._pump()

    def end_of_input(self):
        self.input_ended = True
        if not self.closed:
            self._pump()

    def cancel(self):
        self.released = True
        if self.closed:
            self.supervisor.channels.pop(self.number, None)
        else:
            self._stop_reading()
            self._pump()

    def _pump(self, _fd=None):
        try:
            while self.pending:
                sent = os.write(self.writer, memoryview(self.pending)[: wire.MAX_PAYLOAD])
                del self.pending[:sent]
                if not self.released:
                    self.supervisor.out.send_credit(self.number, sent)
        except BlockingIOError:
            if self.writer not in self.supervisor.writers:
                self.supervisor.on_writable(self.writer, self._pump)
            return
        except OSError:
            self.close()
            return
        self.supervisor.ignore(self.writer)
        if self.released:
            self.close()
        elif self.input_ended:
            try:
                self.connection.shutdown(socket.SHUT_WR)
            except OSError:
                self.close()
                return
            self._close_if_over()

    # --- from the program

    def step(self):
        may = self.reading and self.credit > 0 and not self.supervisor.congested
        if may and self.reader not in self.supervisor.readers:
            self.supervisor.on_readable(self.reader, self._on_readable)

    def _on_readable(self, fd):
        allowed = min(self.credit, wire.MAX_PAYLOAD)
        if allowed <= 0 or self.supervisor.congested:
            self.supervisor.ignore(fd)
            return
        try:
            data = processes.read(fd, allowed)
        except OSError:
            self.close()
            return
        if data:
            self.credit -= len(data)
            self.supervisor.out.send(wire.DATA, self.number, data)
        elif data is not None:
            self._stop_reading()
            self.supervisor.out.send(wire.END, self.number)
            self._close_if_over()

    def _stop_reading(self):
        self.reading = False
        self.supervisor.ignore(self.reader)

    # --- the end

    def _close_if_over(self):
        if self.input_ended and not self.reading and not self.pending:
            self.close()

    def close(self):
        if self.closed:
            return
        self.closed = True
        self.pending.clear()
        self._stop_reading()
        self.supervisor.ignore(self.writer)
        os.close(self.writer)
        self.connection.close()
        self.supervisor.out.send_json(wire.CLOSE, self.number, {})
        if self.released:
            self.supervisor.channels.pop(self.number, None)
