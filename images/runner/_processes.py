"""Processes: becoming a safe PID 1, making children, killing and reaping everything."""

import ctypes
import fcntl
import os
import resource
import signal
import sys
import time

PR_SET_DUMPABLE = 4
NICE = 10
OOM_SCORE = 1000
DEAD = "ZX"
"""Process states. A zombie may stay for as long as a spared parent does not ask for it."""
STILL = "TZX"
READ_SIZE = 64 * 1024
WIRE_PIPE = 256 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def become_untouchable():
    """Close ptrace and /proc/1/{mem,fd,environ} to processes of our own user, and our ears."""
    if _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    # The kernel keeps from an init only the signals that it has no handler for, and Python
    # installs one for SIGINT: `kill -INT 1` would end us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def take_wire():
    """Move stdin and stdout out of the way of stray prints. Returns (in, out), both non-blocking."""
    wire_in, wire_out = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 20), fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 20)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    for fd in (wire_in, wire_out):
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, WIRE_PIPE)
        except OSError:
            pass  # it may be no pipe, or more than one user may have
    os.set_blocking(wire_in, False)
    os.set_blocking(wire_out, False)
    return wire_in, wire_out


def wake_on_sigchld():
    """A descriptor that becomes readable when a child has ended."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read_end


def read(fd, size=READ_SIZE):
    """Bytes, b"" at the end, or None if there is nothing to read now."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None


def drain(fd):
    while read(fd):
        pass


def reap():
    """Every child that has ended: (pid, wait status, rusage)."""
    ended = []
    while True:
        try:
            pid, status, rusage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status, rusage))


def kill_all(spare, until, freeze=()):
    """Kill every process but PID 1 and `spare` (pids); stop `freeze`, which are some of these.

    Returns (alone, ended): whether a look at /proc proved that nothing else runs, and the
    (pid, status, rusage) of who was reaped."""
    ended = []
    pause = 0.0002
    while True:
        if freeze:
            signal_each(freeze, signal.SIGSTOP)
        if spare:
            kill_each(_others(spare))
        else:
            _kill_everything()
        ended += reap()
        if all(is_in(DEAD, pid) for pid in _others(spare)) and all(is_in(STILL, pid) for pid in freeze):
            for pid in freeze:
                has_moved(pid)  # our own stop is no news
            return True, ended + reap()
        if time.monotonic() > until:
            return False, ended
        time.sleep(pause)
        pause = min(pause * 2, 0.005)


def interrupt(first, spare):
    """SIGINT to `first` and then to all others but PID 1 and `spare`, as a terminal does: a shell that hears
    it before its child dies of it stops, one that hears it later has gone on."""
    signal_each([first, *(pid for pid in _others(spare) if pid != first)], signal.SIGINT)


def has_moved(pid):
    """Whether a child was stopped or continued since this was last asked, for whatever short time."""
    moved = False
    try:
        while os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG):
            moved = True
    except ChildProcessError:
        pass  # it has ended, which `reap` tells
    return moved


def is_still(pid):
    return is_in(STILL, pid)


def is_dead(pid):
    return is_in(DEAD, pid)


def is_alone(spare):
    """Whether nothing runs but PID 1 and `spare`."""
    return all(is_in(DEAD, pid) for pid in _others(spare))


def _kill_everything():
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_each(pids):
    # Stop them all first: a fork bomb that is killed one by one outruns the killer.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        signal_each(pids, number)


def signal_each(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _others(spare):
    return [
        int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1" and int(name) not in spare
    ]


def is_in(states, pid):
    """Whether all threads of a process are in one of `states`, or it is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return all(_state(f"/proc/{pid}/task/{thread}/stat") in states for thread in threads)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _state(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


class NoProcess(OSError):
    """There are as many as there may be."""


def fork(body):
    """Run `body` in a child that is an ordinary, killable, low-priority process of its own
    session. However `body` ends, the child ends there: it must never go on as a second us."""
    try:
        pid = os.fork()
    except OSError as error:
        raise NoProcess(error.errno, error.strerror) from None
    if pid != 0:
        return pid
    try:
        _become_ordinary()
        body()
    except BaseException as error:
        os.write(2, f"sandbox: {error}\n".encode(errors="replace"))
    finally:
        os._exit(126)


def _become_ordinary():
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    # Weaker than PID 1: it must get the CPU when it has to kill.
    os.setpriority(os.PRIO_PROCESS, 0, NICE)


def adopt(fds, keep=(), private=False):
    """In a child: make `fds` its descriptors 0.. and close all others but `keep`.

    Only then, and not at all if it is `private`, may programs of the same user look into it: until
    then it has our wire, and what is dumpable has its descriptors open to all of them."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in fds]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    last = len(fds)
    for fd in sorted(keep):
        os.closerange(last, fd)
        last = fd + 1
    os.closerange(last, 4096)
    if not private:
        _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        # PID 1 must not be who the OOM killer picks. (Who is not dumpable can't set it.)
        # Not open(): its text layer takes longer than the writing, and every run does this.
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        os.write(fd, b"%d" % OOM_SCORE)
        os.close(fd)


def limit_cpu(seconds):
    """A second line of defence for one process; the supervisor counts the whole run."""
    whole = int(seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))


def clear_preload_traces():
    """What a preloaded module left behind must not show in programs: warnings filters do not."""
    sys.argv = [""]
