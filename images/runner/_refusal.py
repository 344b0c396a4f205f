"""Telling a program that it has as many connections to the way out as it may have: see `_egress`.

The one thing that we say to programs ourselves, so that ten thousand connections cost the server nothing:
503 in HTTP's words, "general failure" in those of SOCKS5. Few are told at once, each within a second.
"""

import fcntl
import json
import os
import socket
import time

import _processes as processes
from _tunnel import FIRST_FD

MOST = 8
SECONDS = 1.0
MOST_BYTES = 64 * 1024
_SOCKS = 5


class Refusals:
    """Those that are told now."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.open = set()

    @property
    def may_begin(self):
        return len(self.open) < MOST

    def begin(self, connection, most):
        """Raises OSError if there is no descriptor for it."""
        self.open.add(Refusal(self.supervisor, connection, most, self.open.discard))

    def patience(self):
        """Seconds until the first of them has had its time, or None."""
        return min((max(0.0, each.until - time.monotonic()) for each in self.open), default=None)

    def step(self):
        for each in [each for each in self.open if each.until <= time.monotonic()]:
            each.close()

    def close(self):
        for each in list(self.open):
            each.close()


class Refusal:
    """One. It reads on for a while after the answer: a connection that is closed with something unread is
    reset, and the answer may go with it."""

    def __init__(self, supervisor, connection, most, on_close):
        self.supervisor = supervisor
        self.most = most
        self.on_close = on_close
        self.until = time.monotonic() + SECONDS
        self.left = MOST_BYTES
        self.told = False
        self.fd = fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
        self.connection = socket.socket(fileno=self.fd)
        self.connection.setblocking(False)
        supervisor.on_readable(self.fd, self._on_readable)

    def _on_readable(self, fd):
        try:
            data = processes.read(fd, 16 * 1024)
            if data is None:
                return
            self.left -= len(data)
            if data and not self.told:
                self.told = True
                # It is small, and the first that is sent: there is room for it.
                os.write(fd, _socks() if data[0] == _SOCKS else _http(self.most))
                self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            data = b""
        if not data or self.left <= 0:
            self.close()

    def close(self):
        self.supervisor.ignore(self.fd)
        self.connection.close()
        self.on_close(self)


def _http(most):
    message = f"this sandbox has {most} connections open, as many as it may have at once"
    body = {
        "error": "egress_failed",
        "rule": "limit.tunnels",
        "message": message,
        "hint": "close some, or wait for them to end",
    }
    content = json.dumps(body).encode() + b"\n"
    head = (
        f"HTTP/1.1 503 Too many connections (sandbox egress): {message}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content


def _socks():
    """No password, and to whatever is then asked for: general failure. It has no words for more."""
    return bytes((_SOCKS, 0)) + bytes((_SOCKS, 1, 0, 1)) + bytes(6)
