"""Who descends from whom: ending everything but some processes and all that they have started.

Only used while there are background processes; without them `_processes.kill_all` does it in one call.

Kinship is read from /proc, a process at a time, while everything moves. What makes it sound: nobody can
choose a parent but by being forked by it, or by its parent's death, and then it is the next ancestor that
adopts orphans (a keeper, see `_background`) or us. A process whose line can't be followed is no relative, so
doubt kills. A number that is used again in the middle of a look could pass for its former owner, so the
proof is two looks in a row.
"""

import os
import signal
import time

import _processes as processes

GENTLE_ROUNDS = 3
HALT_SECONDS = 0.3
VFORK_SECONDS = 0.005
"""After which who waits in the kernel counts as standing, as a parent does while its vfork's child stands."""
LONGEST_LINE = 4096
WALKS = 3
STOPPED = "T"


def numbers():
    """Every process but ourselves."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def parents():
    """Of every process but ourselves."""
    return {pid: parent for pid in numbers() if (parent := _parent(pid)) is not None}


def members(roots, known_parents=None):
    """All that descend from `roots`, these included."""
    if not roots:
        return set()
    table = parents() if known_parents is None else known_parents
    known = {0: False, 1: False, **dict.fromkeys(roots, True)}
    return {pid for pid in table if _belongs(pid, table, known, roots)}


def _belongs(pid, table, known, roots):
    line = []
    step = pid
    while step not in known:
        line.append(step)
        step = table.get(step)
        if step is None or len(line) > LONGEST_LINE:
            # An ancestor has ended while we looked: who adopted its children is to be seen by now.
            return _belongs_now(pid, roots)
    known.update(dict.fromkeys(line, known[step]))
    return known[step]


def _belongs_now(pid, roots):
    return any(_descends(pid, roots) for _ in range(WALKS))


def _descends(pid, roots):
    for _ in range(LONGEST_LINE):
        if pid in roots:
            return True
        if pid is None or pid <= 1:
            return False
        pid = _parent(pid)
    return False


def _parent(pid):
    known = fields(pid)
    return int(known[1]) if known else None


def fields(pid):
    """What comes after the name in its stat, or None if it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split() or None
    except OSError:
        return None
    finally:
        os.close(fd)


def cpu_ticks(pids):
    """What these and the children that they have waited for have used, in clock ticks."""
    return sum(sum(map(int, known[11:15])) for pid in pids if (known := fields(pid)))


def is_alone(spare, roots):
    """Whether nothing runs but PID 1, `spare` and what descends from `roots`."""
    return not _strangers(spare, roots)


def _strangers(spare, roots):
    table = parents()
    kin = members(roots, table)
    others = (pid for pid in numbers() if pid not in spare and pid not in kin)
    # Who was born since the table was made is in none of the two, and may be kin nevertheless.
    strangers = (pid for pid in others if pid in table or not _belongs_now(pid, roots))
    return [pid for pid in strangers if not processes.is_dead(pid)]


def kill_all(spare, roots, until, freeze=()):
    """As `_processes.kill_all`; what descends from `roots` lives on, too."""
    roots = set(roots)
    ended = []

    def left():
        return _strangers(spare, roots)

    def reap():
        fresh = processes.reap()
        # The number of one that was reaped may be anybody's by the next look.
        roots.difference_update(pid for pid, _status, _rusage in fresh)
        ended.extend(fresh)

    def before():
        processes.signal_each(freeze, signal.SIGSTOP)

    def done():
        reap()
        return all(map(processes.is_still, freeze))

    alone = _until_none(left, until, freeze, before, done)
    for pid in freeze:
        processes.has_moved(pid)  # our own stop is no news
    reap()
    return alone, ended


def kill_tree(root, until, stay=()):
    """End all that descends from `root`, which lives on and keeps them together until they are gone.
    `stay` are processes that stand still and shall go on doing so. Returns whether they are gone."""

    def left():
        return [pid for pid in members({root}) if pid != root and not processes.is_dead(pid)]

    return _until_none(left, until, stay)


def _until_none(left, until, stay, before=lambda: None, done=lambda: True):
    """Kill what `left` names until it twice names nothing."""
    quiet = 0
    rounds = 0
    pause = 0.0002
    while True:
        before()
        victims = left()
        if victims:
            quiet = 0
            rounds += 1
            if rounds <= GENTLE_ROUNDS:
                processes.kill_each(victims)
            else:
                _kill_at_a_standstill(left, stay)
        elif done():
            quiet += 1
            if quiet == 2:
                return True
            continue
        else:
            done()
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.005)


def _kill_at_a_standstill(left, stay):
    """Some multiply faster than they can be looked at. One call stops everything here; nothing can begin or
    end while we pick, and who may live goes on afterwards.

    A fork that is under way goes on nevertheless, and its child is born stopped: who picks before that would
    not see it, and nobody would ever continue it."""
    stood = {pid for pid in numbers() if (known := fields(pid)) and known[0] == STOPPED.encode()}
    stood.update(stay)
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        return
    try:
        _until_all_stand()
        processes.signal_each(left(), signal.SIGKILL)
    finally:
        processes.signal_each([pid for pid in numbers() if pid not in stood], signal.SIGCONT)


def _until_all_stand():
    begin = time.monotonic()
    while (waited := time.monotonic() - begin) < HALT_SECONDS:
        still = processes.STILL if waited < VFORK_SECONDS else processes.STILL + "D"
        if all(processes.is_in(still, pid) for pid in numbers()):
            return
        time.sleep(0.0002)
