"""Kept interpreters, one per driver: each takes cell after cell and says when each is done.

Python takes a cell's pipes over its socket. Node and bash can't, so a process that holds them announces
the cell, and the driver opens them as /proc/HOLDER/fd/N; the holder ends with the cell like all else.
"""

import os
import signal
import socket

import _files as files
import _processes as processes
import _python as python

CODE_DIRECTORY = "/tmp/.sandbox"
DRIVERS = {
    "node": ["/usr/bin/node", "/opt/sandbox/repl.js"],
    "bash": ["/bin/bash", "--norc", "--noprofile", "/opt/sandbox/repl.sh"],
}
COMMANDS, REPORTS = 60, 61
"""Where a driver finds its cells announced, and reports that one is done. High, for programs use low ones;
below 64, the fewest open files that a policy can set."""


def new_token():
    """Comes back in the cell's report: an earlier cell may have sent more than its own one."""
    return os.urandom(8).hex().encode()


def memory_file(name, data):
    """A descriptor from which `data` can be read, with no file system that could be full."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


class Python:
    """One that has taken nothing yet can also become the program of a run that is not kept."""

    def __init__(self, fork, become):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = fork(lambda: python.serve_cells(theirs.detach(), become))
        self.control.setblocking(False)

    def run(self, request, fds, _fork=None):
        """Send the request and the descriptors that are its stdin, stdout, stderr and side.

        Raises OSError if the interpreter has closed or filled its socket."""
        self.token = new_token()
        # The code may be larger than a socket message, so it travels as a file of its own.
        code = memory_file("cell", python.pack(request))
        try:
            socket.send_fds(self.control, [self.token], [code, *fds])
        finally:
            os.close(code)
        os.kill(self.pid, signal.SIGCONT)

    def close(self):
        self.control.close()


class Driven:
    """Node or bash, under a driver of ours."""

    def __init__(self, fork, argv, environment):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        commands, self.commands = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = fork(lambda: _drive(argv, environment, commands, theirs.fileno()))
        except OSError:
            self.close()
            raise
        finally:
            theirs.close()
            os.close(commands)
        self.control.setblocking(False)

    def run(self, request, fds, fork):
        """See `Python.run`."""
        self.token = new_token()
        code = memory_file("cell", (request["code"] or "").encode())
        args = memory_file("args", b"".join(arg.encode() + b"\0" for arg in request["args"]))
        pairs = (f"{name}={value}\0" for name, value in request["env"].items())
        env = memory_file("env", "".join(pairs).encode())
        try:
            fork(lambda: _hold(request, self.token, (*fds, code, args, self.commands, env)))
        finally:
            for fd in (code, args, env):
                os.close(fd)
        os.kill(self.pid, signal.SIGCONT)

    def close(self):
        self.control.close()
        os.close(self.commands)


def _drive(argv, environment, commands, reports):
    os.environ.update(environment)
    os.dup2(commands, COMMANDS)
    os.dup2(reports, REPORTS)
    processes.adopt((os.open("/dev/null", os.O_RDWR),) * 3, keep=(COMMANDS, REPORTS))
    files.enter_workspace()
    execute(argv)


def _hold(request, token, fds):
    """In a child: tell the driver of the cell, and hold its descriptors for as long as it runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.adopt(fds)
    myself = os.getpid()
    path = os.path.join(CODE_DIRECTORY, request["out"] if request.get("build") else request["file"])
    try:
        # A file whose name errors can show, if there is room for one.
        if not request.get("build"):
            write_program(path, request["code"])
    except OSError:
        path = f"/proc/{myself}/fd/4"
    os.write(6, b"%s %d %s %s\n" % (token, myself, request["file"].encode(), path.encode()))
    while True:
        signal.pause()


def execute(argv, search=False):
    """Become `argv`, with the signals that Python changes as programs expect them."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if search:
        os.execvp(argv[0], argv)
    os.execv(argv[0], argv)


def write_program(path, code):
    """A new file each time: what an earlier run has put there may be a FIFO or a link."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "w", encoding="utf-8", newline="") as file:
        file.write(code)
