"""In a child: being the keeper of a background process. What it is for: see `_background`."""

import ctypes
import errno
import os
import signal

import _files as files
import _interpreters as interpreters
import _processes as processes

PR_SET_CHILD_SUBREAPER = 36


def keep(request, fds):
    """In a child: be the keeper. Its fds: the program's stdin, stdout and stderr, and where to report."""
    processes.adopt(fds, private=True)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        os.write(3, b"failed %d\n" % errno.ENOSYS)
        return
    try:
        pid = os.fork()
    except OSError as error:
        os.write(3, b"failed %d\n" % (error.errno or errno.EAGAIN))
        return
    if pid == 0:
        _become(request)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.write(3, b"started %d\n" % pid)
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            signal.pause()
            continue
        if ended == pid:
            os.write(3, b"ended %d\n" % status)


def _become(request):
    """In the keeper's child: be the program."""
    command = request["command"]
    what = request["cwd"]
    try:
        os.setsid()
        processes.adopt((0, 1, 2))
        files.enter_workspace()
        os.chdir(what)
        what = command[0]
        os.environ.update(request["env"])
        interpreters.execute(command, search=True)
    except OSError as error:
        os.write(2, f"sandbox: {what}: {error.strerror}\n".encode(errors="replace"))
        os._exit(126 if error.errno == errno.EACCES else 127)
    except BaseException as error:
        os.write(2, f"sandbox: {error}\n".encode(errors="replace"))
    finally:
        os._exit(126)
