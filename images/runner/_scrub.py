"""Between two runs of one caller: what a program may have left is removed, and then looked for.

Whether a sandbox is as it was before its first run is judged by what the kernel says of it, not by whether
removing went well: space and entries of every file system that can be written, modes, owners, attributes,
shared memory, semaphores, queues, sockets, processes, our own limits and descriptors. What can't be looked
at counts as dirty, and a dirty sandbox is destroyed by the host, which also ends what takes too long.
"""

import array
import ctypes
import errno
import fcntl
import os
import platform
import resource
import stat
import time

import _artifacts as artifacts
import _files as files
import _processes as processes

PLACES = (*files.WRITABLE, "/dev/mqueue")
IPC = {"shm": "/proc/sysvipc/shm", "msg": "/proc/sysvipc/msg", "sem": "/proc/sysvipc/sem"}
SOCKETS = [path for path in ("/proc/net/sockstat", "/proc/net/sockstat6") if os.path.exists(path)]
COUNTED = ("used", "inuse", "tw")
"""Of our network namespace; the other numbers in these files are the host's."""
FS_IOC_GETFLAGS = 0x80086601
ADD_KEY = {"x86_64": 248, "aarch64": 217}
PROCESS_KEYRING = -2
RLIM_NLIMITS = 16
SETTLE_SECONDS = 0.2
"""What the kernel takes back a moment after its owner's death, such as sockets that were on their way."""

_libc = ctypes.CDLL(None, use_errno=True)


class Dirty(Exception):
    """Something is not as it was; says what."""


class Baseline:
    """What a sandbox looks like before its first run, modules imported and nothing forked."""

    def __init__(self):
        self.facts = None
        if not _keys_are_refused():
            self.unfit = "key rings can be used"
            return
        try:
            self.made = [path for place in PLACES for path in _directories(place)]
            self.times = {path: _times(path) for path in (*PLACES, *self.made)}
            self.facts = self._look()
        except OSError as error:
            self.unfit = str(error)  # another kernel than Linux

    def _look(self):
        facts = {f"the use of {place}": _use(place) for place in PLACES}
        return facts | {name: look() for name, look in self._looks().items()}

    def _looks(self):
        """In the order in which they are made: entries are counted before any directory is listed."""
        return {
            "processes": lambda: sorted(filter(str.isdigit, os.listdir("/proc"))),
            "sockets": _sockets,
            **{f"System V {kind}": lambda path=path: _ids(path) for kind, path in IPC.items()},
            **{path: lambda path=path: _directory(path) for path in (*PLACES, *self.made)},
            "descriptors": lambda: len(os.listdir("/proc/self/fd")),
            "limits": _limits,
        }

    def check(self):
        """Raises Dirty, or OSError for what could not be looked at."""
        if self.facts is None:
            raise Dirty(self.unfit)
        for place in PLACES:
            _compare(f"the use of {place}", self.facts, _use(place))
        for name, look in self._looks().items():
            _compare(name, self.facts, look())

    def problem(self):
        """What is not as it was, or nothing; then the directories' times are restored, too."""
        try:
            self.check()
            self.restore()
        except (Dirty, OSError) as error:
            return str(error)[:200]
        return ""

    def restore(self):
        """What nobody notices: when a directory was last changed."""
        for path, times in self.times.items():
            try:
                os.utime(path, ns=times)
            except PermissionError:
                os.utime(path)  # not ours: nobody but root could have set any time but now


def is_clean(supervisor, found):
    """Whether nothing is left of any run, without removing anything: not the files, either, that it was
    `found` to have made, which somebody may want. Asked as the only channel ends."""
    if found["files"] or found["omitted"] or not found["complete"]:
        return False
    if len(supervisor.channels) > 1 or supervisor.residents.interpreters or supervisor.background.processes:
        return False
    return not supervisor.baseline.problem()


def conclude(run, result):
    """Close a run's channel. If it asks for that and left nothing, the next can begin anew."""
    asked = run.request.get("reuse") and run.alone and not run.cause
    result["clean"] = bool(asked) and is_clean(run.supervisor, result["artifacts"])
    run.supervisor.close(run.number, result)
    if result["clean"]:
        begin_anew(run.supervisor)


def begin_anew(supervisor):
    """The sandbox is as before its first run: so is the supervisor."""
    supervisor.artifacts = artifacts.Artifacts()
    supervisor.residents.ended.clear()
    supervisor.statuses.clear()
    supervisor.out.flush()  # whoever waits for this need not wait for the fork
    supervisor.residents.fork_ahead()


class Scrub:
    """The channel of one: quick if nothing was left, and otherwise with a child that removes it."""

    outlives_runs = False

    def __init__(self, supervisor, number):
        self.supervisor = supervisor
        self.number = number
        self.baseline = supervisor.baseline
        self.credit = 0
        self.pid = None

    def start(self):
        self.supervisor.channels[self.number] = self
        self.supervisor.background.clear()
        if not self.supervisor.residents.kill_interpreters():
            self._close("processes could not be ended")
        elif (problem := self.baseline.problem()) and self.baseline.facts:
            self._clean()
        else:
            self._close(problem)

    def _clean(self):
        try:
            self.pid = self.supervisor.residents.fork(lambda: _in_child(self.baseline))
        except OSError as error:
            self._close(str(error))

    def claims(self, pid):
        return pid == self.pid

    def cancel(self):
        if self.pid is not None:
            os.kill(self.pid, 9)

    def feed(self, _payload):
        pass

    def end_of_input(self):
        pass

    def step(self):
        if self.pid in self.supervisor.statuses:
            del self.supervisor.statuses[self.pid]
            self._close(self.baseline.problem())

    def _close(self, problem):
        self.supervisor.close(self.number, {"ok": not problem, "problem": problem})
        if not problem:
            begin_anew(self.supervisor)


def _compare(name, facts, now):
    if facts[name] != now:
        raise Dirty(f"{name}: not as before the first run")


def _directories(place):
    paths = [f"{place}/{name}" for name in os.listdir(place)]
    return [path for path in paths if stat.S_ISDIR(os.lstat(path).st_mode)]


def _use(place):
    """Blocks and entries that are taken. A file that only a descriptor holds counts, too."""
    numbers = os.statvfs(place)
    return numbers.f_blocks - numbers.f_bfree, numbers.f_files - numbers.f_ffree


def _directory(path):
    """All that can be changed of a directory but its times."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        attributes = {name: os.getxattr(fd, name) for name in _attributes(fd)}
        facts = found.st_dev, found.st_mode, found.st_uid, found.st_gid, _flags(fd), attributes
        return facts, sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _attributes(fd):
    try:
        return sorted(os.listxattr(fd))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise


def _flags(fd):
    flags = array.array("l", [0])
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.ENOTSUP):
            return None
        raise
    return flags[0]


def _times(path):
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns


def _ids(path):
    """Of what the kernel holds for nobody; each of these files begins with a line of names."""
    with open(path, encoding="ascii") as file:
        return [int(line.split()[1]) for line in file.readlines()[1:]]


def _sockets():
    numbers = []
    for path in SOCKETS:
        with open(path, encoding="ascii") as file:
            for line in file:
                kind, *fields = line.split()
                pairs = zip(fields[::2], fields[1::2], strict=False)
                numbers += [(kind, name, number) for name, number in pairs if name in COUNTED]
    return numbers


def _limits():
    """Ours. Programs can't reach them where our seccomp profile is."""
    every = tuple(resource.getrlimit(number) for number in range(RLIM_NLIMITS))
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        score = file.read()
    return every, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), score


def _keys_are_refused():
    """Key rings would outlive every process, and nothing shows what is in them."""
    number = ADD_KEY.get(platform.machine())
    if number is None:
        return False
    ctypes.set_errno(0)
    refused = _libc.syscall(number, b"user", b"sandbox", b"x", ctypes.c_size_t(1), PROCESS_KEYRING) == -1
    return refused and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)


# --- in the child


def _in_child(baseline):
    processes.adopt((os.open("/dev/null", os.O_RDWR),) * 3, private=True)
    files.limit_memory()
    for place in PLACES:
        _open_up(place, baseline)
        _empty(place)
    for path in baseline.made:
        os.mkdir(path, stat.S_IMODE(baseline.facts[path][0][1]))
    _remove_ipc()
    _settle(baseline)
    os._exit(0)


def _open_up(place, baseline):
    """Its mode and attributes as they were: a program may have locked us out."""
    os.chdir("/")
    (_dev, mode, uid, _gid, _flags, attributes), _names = baseline.facts[place]
    if uid != os.getuid():
        return  # root's: no program could change it
    os.chmod(place, stat.S_IMODE(mode))
    for name in os.listxattr(place):
        if name not in attributes:
            os.removexattr(place, name)
    os.chmod(place, stat.S_IMODE(mode))  # an access list that goes takes the mode along


def _empty(place):
    import _file_walk

    for name in os.listdir(os.fsencode(place)):
        path = os.path.join(os.fsencode(place), name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            _file_walk.remove_tree(path)
        else:
            os.unlink(path)


def _remove_ipc():
    """Whoever made it may remove it, whoever owns it now."""
    remove = {
        "shm": lambda number: _libc.shmctl(number, 0, None),
        "msg": lambda number: _libc.msgctl(number, 0, None),
        "sem": lambda number: _libc.semctl(number, 0, 0),
    }
    for kind, path in IPC.items():
        for number in _ids(path):
            remove[kind](number)


def _settle(baseline):
    until = time.monotonic() + SETTLE_SECONDS
    while _sockets() != baseline.facts["sockets"] and time.monotonic() < until:
        time.sleep(0.002)
