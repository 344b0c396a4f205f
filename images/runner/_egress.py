"""The way out of what was granted one: a listener on loopback, and each connection to it a channel.

The supervisor only carries bytes: whom a connection may reach is decided by the server at the other end of
the wire. What a program can do to it is bounded here: one accept a turn of the loop, so many tunnels at once
(one counts until the host has let go of it, too), and per tunnel no more bytes than there is credit for.
Who comes when there are as many as may be waits for one to end, and if none does for `PATIENCE` is told so
(`_refusal`).

Listener and tunnels live as long as something that was granted them: a run, or a background process. Which of
them has made a connection nobody can tell, so all in one sandbox are granted the same.

On the wire: we number tunnels, ascending from 2**31, and ACCEPT begins one. DATA and END (a half-close) go
both ways, with windows of 64 KiB. CLOSE is our last word and CANCEL the host's, after which what it had sent
still goes out; the tunnel counts until both were said. Where no background process has a way out, all end
before the CLOSE of their run.
"""

import os
import select
import socket
import time

import _files as files
import _wire as wire
from _refusal import Refusals
from _tunnel import Tunnel

BACKLOG = 32
MOST = 64
"""Tunnels at once, whatever the host says: each takes two of the supervisor's descriptors."""
PATIENCE = 3.0
"""Seconds for which somebody has waited and no tunnel has ended, after which who waits is told so."""
PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NODE_OPTIONS = "--require=/opt/sandbox/proxy.js"
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
    """A sandbox's own. The port stays the same and tunnels are numbered on, whatever comes and goes."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.listener = None
        self.port = 0
        self.trusted = None
        self.next_tunnel = wire.FIRST_TUNNEL

    def enter(self, granted):
        """For a run or a background process that begins, with what the host has granted it. Returns what it
        finds in its environment. Raises OSError if there is no room for a listener."""
        if not granted:
            return {}
        if self.listener is None or self.listener.socket is None:
            self.listener = Listener(self.supervisor)
        self.listener.most = self.listener.room = min(int(granted["tunnels"]), MOST)
        return {**self._environment(), **(granted.get("env") or {})}

    def _environment(self):
        """In both spellings."""
        found = dict.fromkeys(PROXY_NAMES, f"http://127.0.0.1:{self.port}")
        found["NO_PROXY"] = "localhost,127.0.0.1,::1"
        found.update({name.lower(): value for name, value in found.items()})
        found["NODE_OPTIONS"] = NODE_OPTIONS
        if self.trusted:
            found.update(dict.fromkeys(TRUST_NAMES, self.trusted))
        return found

    def step(self):
        """Go on, or end with the last that was granted it."""
        if self.listener is None:
            return
        if self._is_used():
            self.listener.step()
        else:
            self.listener.close()
            self.listener = None

    def _is_used(self):
        run = self.supervisor.run
        if run is not None and run.egress and not run.finished:
            return True
        return any(each.egress and not each.ended for each in self.supervisor.background.processes.values())

    def patience(self):
        """Seconds that the supervisor may wait, or None."""
        return self.listener.patience() if self.listener is not None else None

    def number(self):
        """Of a new tunnel."""
        self.next_tunnel += 1
        return self.next_tunnel - 1


class Listener:
    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.most = self.room = 0
        """As many tunnels at once as may be, and as there were when there was no room for one more."""
        self.waiting_since = None
        self.refusals = Refusals(supervisor)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listen()
        except OSError:
            self.socket.close()
            raise

    def _listen(self):
        way_out = self.supervisor.way_out
        self.socket.setblocking(False)
        # The same one each time, if it is free: what a session has written down goes on working.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind(("127.0.0.1", way_out.port))
        except OSError:
            self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(BACKLOG)
        way_out.port = self.socket.getsockname()[1]

    def step(self):
        """Listen as long as one more may be accepted or refused; who comes then waits in the kernel's short
        queue."""
        self.refusals.step()
        if self.socket is None:
            return
        fd = self.socket.fileno()
        if not self._is_full():
            self.waiting_since = None
            may = not self.supervisor.congested
        else:
            may = self.waiting_since is None or self._refuses()
        if may and fd not in self.supervisor.readers:
            self.supervisor.on_readable(fd, self._on_readable)
        elif not may and fd in self.supervisor.readers:
            self.supervisor.ignore(fd)

    def _is_full(self):
        return len(self._tunnels()) >= min(self.most, self.room)

    def _refuses(self):
        late = self.waiting_since is not None and time.monotonic() >= self.waiting_since + PATIENCE
        return late and self.refusals.may_begin

    def patience(self):
        waits = [self.refusals.patience()]
        if self.waiting_since is not None and self.socket is not None:
            until = self.waiting_since + PATIENCE
            waits.append(until - time.monotonic() if until > time.monotonic() else None)
        return min((each for each in waits if each is not None), default=None)

    def _tunnels(self):
        return [channel for channel in self.supervisor.channels.values() if isinstance(channel, Tunnel)]

    def _on_readable(self, _fd):
        full = self._is_full()
        if full and not self._refuses():
            self.waiting_since = self.waiting_since or time.monotonic()
            self.step()
            return
        try:
            connection, _address = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            self.waiting_since = None
            return
        except OSError:
            self._has_no_room()
            return
        with connection:
            if full:
                self._refuse(connection)
                return
            try:
                tunnel = Tunnel(self.supervisor, self.supervisor.way_out.number(), connection)
            except OSError:
                self._has_no_room()
                return
        self.supervisor.channels[tunnel.number] = tunnel
        self.supervisor.out.send(wire.ACCEPT, tunnel.number)

    def _has_no_room(self):
        """No memory or descriptors: who comes waits for a tunnel to end. Where there is none, a refusal is
        better than waiting for ever."""
        self.waiting_since = None
        self.room = len(self._tunnels())
        if self.room:
            self.step()
        else:
            self._close_socket()

    def _refuse(self, connection):
        try:
            self.refusals.begin(connection, min(self.most, self.room))
        except OSError:
            self.waiting_since = time.monotonic()  # not even for that: later
            return
        queue = select.poll()
        queue.register(self.socket, select.POLLIN)
        if not queue.poll(0):
            self.waiting_since = None  # who comes next has its own time

    def _close_socket(self):
        if self.socket is not None:
            self.supervisor.ignore(self.socket.fileno())
            self.socket.close()
            self.socket = None

    def close(self):
        self._close_socket()
        self.refusals.close()
        for tunnel in self._tunnels():
            tunnel.close()


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
