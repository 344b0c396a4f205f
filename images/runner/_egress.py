"""The way out of a run that was granted one: a listener on loopback, and each connection to it a channel.

The supervisor only carries bytes: whom a connection may reach is decided by the server at the other end of
the wire. What a program can do to it is bounded here: one accept a turn of the loop, so many tunnels at once
(one counts until the host has let go of it, too), and per tunnel no more bytes than there is credit for. Both
listener and tunnels end with the run.

On the wire: we number tunnels, ascending from 2**31, and ACCEPT begins one. DATA and END (a half-close) go
both ways, with windows of 64 KiB. CLOSE is our last word and CANCEL the host's, after which what it had sent
still goes out; the tunnel counts until both were said. All end before the CLOSE of their run.
"""

import os
import socket

import _files as files
import _processes as processes
import _wire as wire

BACKLOG = 32
MOST = 64
"""Tunnels at once, whatever the host says: each takes two of the supervisor's descriptors."""
PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
TRUST_NAMES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "npm_config_cafile",
)


class WayOut:
    """What lasts from run to run: the port, the next tunnel's number, where the certificates are."""

    def __init__(self):
        self.port = 0
        self.next_tunnel = wire.FIRST_TUNNEL
        self.trusted = None


def open_for(supervisor, request):
    """The listener of a run, if it may have one, and what its programs find in their environment."""
    if not request.get("egress"):
        return None, {}
    listener = Listener(supervisor, request["egress"])
    return listener, listener.environment()


class Listener:
    """Accepts for one run."""

    def __init__(self, supervisor, request):
        self.supervisor = supervisor
        self.most = min(int(request["tunnels"]), MOST)
        self.hints = request.get("env") or {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listen()
        except OSError:
            self.socket.close()
            raise

    def _listen(self):
        self.socket.setblocking(False)
        # The same one each time, if it is free: what a session has written down goes on working.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(("127.0.0.1", self.supervisor.way_out.port))
        except OSError:
            self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(BACKLOG)
        self.supervisor.way_out.port = self.socket.getsockname()[1]

    def environment(self):
        """What tells programs of it, in both spellings."""
        found = dict.fromkeys(PROXY_NAMES, f"http://127.0.0.1:{self.supervisor.way_out.port}")
        found["NO_PROXY"] = "localhost,127.0.0.1,::1"
        found.update({name.lower(): value for name, value in found.items()})
        found["NODE_USE_ENV_PROXY"] = "1"
        if self.supervisor.way_out.trusted:
            found.update(dict.fromkeys(TRUST_NAMES, self.supervisor.way_out.trusted))
        return {**found, **self.hints}

    def step(self):
        """Listen as long as one more may be accepted; who comes then waits in the kernel's short queue."""
        if self.socket is None:
            return
        fd = self.socket.fileno()
        may = len(self._tunnels()) < self.most and not self.supervisor.congested
        if may and fd not in self.supervisor.readers:
            self.supervisor.on_readable(fd, self._on_readable)
        elif not may and fd in self.supervisor.readers:
            self.supervisor.ignore(fd)

    def _tunnels(self):
        return [channel for channel in self.supervisor.channels.values() if isinstance(channel, Tunnel)]

    def _on_readable(self, _fd):
        if len(self._tunnels()) >= self.most:
            self.step()
            return
        try:
            connection, _address = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError:
            self._close_socket()  # no memory or descriptors: refusing is better than trying for ever
            return
        try:
            tunnel = Tunnel(self.supervisor, connection)
        except OSError:
            connection.close()
            self._close_socket()
            return
        self.supervisor.channels[tunnel.number] = tunnel
        self.supervisor.out.send(wire.ACCEPT, tunnel.number)

    def _close_socket(self):
        if self.socket is not None:
            self.supervisor.ignore(self.socket.fileno())
            self.socket.close()
            self.socket = None

    def close(self):
        self._close_socket()
        for tunnel in self._tunnels():
            tunnel.close()


class Tunnel:
    """One connection. DATA and END go both ways; CLOSE is our last word and CANCEL the host's, which still
    lets what it has sent before go out. It is forgotten when both were said."""

    outlives_runs = False
    pid = None

    def __init__(self, supervisor, connection):
        self.supervisor = supervisor
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.reader = connection.fileno()
        # Polled for each direction on its own.
        self.writer = os.dup(self.reader)
        self.number = supervisor.way_out.next_tunnel
        supervisor.way_out.next_tunnel += 1
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


def trust(supervisor, pem):
    """Write certificates where programs can read them, under a name that nobody can have taken."""
    path = f"/tmp/.sandbox-ca-{os.urandom(8).hex()}.pem"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(pem)
        except OSError:
            os.unlink(path)
            raise
    except OSError as error:
        return files.failure(error)
    supervisor.way_out.trusted = path
    return {"ok": True}
