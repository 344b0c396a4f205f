"""Whom the kernel has killed for memory: a run's process, or one of a background process's.

The kernel counts by control group, which is the whole sandbox, and tells of a death only the parent, which
may be a program. So while a run and background processes live side by side, we note now and then who there
is, whose and how large. When the count has risen, those that carry a SIGKILL or are gone were hit, and the
killer takes the largest there is: the largest of these was it, if it is larger than all that live on. Where
that says nothing, the kill is the run's, and said to be uncertain.
"""

import os
import signal
import time

import _accounting as accounting
import _trees as trees

GLANCE_SECONDS = 0.01
EVERY_SECONDS = 0.05
GROWTH = 8 * 1024 * 1024
"""Bytes after which a look does not wait: sizes that are too old tell nothing."""
BREATHERS = 3, 9
"""How much longer than a look took it is until the next, with such growth and without: who has a thousand
processes would have us look at them all the time, on the run's account."""
GIVE_UP_SECONDS = 0.5
LAST_LOOK_SECONDS = 0.1
"""For what was counted just before a run's end. The kernel counts first and kills then."""
KILLED = 1 << (signal.SIGKILL - 1)
RSS, STARTED = 21, 19
_IS_COUNTED = accounting.SOURCE != "processes"


class Blame:
    def __init__(self, background):
        self.background = background
        self.settled = 0
        """Kills that were put down to somebody, or given up."""
        self.earlier = 0
        """Of these, those between runs that no background process has claimed yet."""
        self.sure = self.unsure = 0
        self.shared = self.main_hit = False
        self.seen = {}
        self.done = set()
        """Who was found out, and may still be dying."""
        self.glance_at = self.look_at = 0.0
        self.memory = 0
        self.give_up_at = None

    def pending(self):
        return accounting.oom_kills() - self.settled

    # --- what a background process asks

    def claim(self):
        """Whether the kernel has killed for memory, and nobody was told yet to be the one."""
        if self.pending() > 0:
            self.settled += 1
        elif self.earlier > 0:
            self.earlier -= 1
        else:
            return False
        return True

    def joined(self):
        """A background process begins."""
        if not self.background.roots():  # what has been counted is the run's, if one goes on
            self.sure += self.pending()
            self.settled, self.earlier = accounting.oom_kills(), 0
        self.shared = _IS_COUNTED

    # --- what a run asks

    def begin(self):
        kills = accounting.oom_kills()
        self.settled, self.earlier = kills, kills - self.settled
        self.sure = self.unsure = 0
        self.main_hit, self.give_up_at = False, None
        self.shared = _IS_COUNTED and bool(self.background.roots())
        self.done.clear()
        self.seen = {}
        if self.shared:
            self._look(None)

    def watch(self, main):
        """Now and then while a run whose main process is `main` lives."""
        now = time.monotonic()
        if not self.shared or now < self.glance_at:
            return
        self.glance_at = now + GLANCE_SECONDS
        if now >= self.look_at or accounting.memory() > self.memory + GROWTH:
            self._look(main)
            done = time.monotonic()
            pressed, calm = (each * (done - now) for each in BREATHERS)
            self.glance_at = done + max(GLANCE_SECONDS, pressed)
            self.look_at = done + max(EVERY_SECONDS, calm)

    def last_look(self, main, killed):
        """Before a run's end kills what is left of it. `killed`: its main process has died of SIGKILL."""
        if killed and not self.main_hit and self.pending() > 0:
            self._the_runs()
        until = time.monotonic() + LAST_LOOK_SECONDS
        while self.shared and self.pending() > 0 and time.monotonic() < until:
            self._look(main)
            time.sleep(0.002)

    def conclude(self):
        """Of a run that has ended: the kills that are its own, and those of which that is uncertain."""
        pending = max(0, self.pending())
        self.settled += pending
        if self.shared:
            self.unsure += pending
        else:
            self.sure += pending
        return self.sure, self.unsure

    # --- finding out

    def _the_runs(self):
        self.settled += 1
        self.sure += 1

    def _look(self, main):
        """Settle what has been counted since the last look; or, if nothing has, remember who there is."""
        self.look_at, self.memory = time.monotonic() + EVERY_SECONDS, accounting.memory()
        now = self._census()
        if self.pending() <= 0:
            self.seen, self.give_up_at = now, None
            return
        for who, (_size, kin) in self._hit(now):
            if self.pending() <= 0:
                break
            self.done.add(who)
            command = self._command(who[0])
            if kin:
                self.settled += 1
                if command is not None:
                    command.hit = True  # its keeper will tell of its end
            else:
                self.main_hit = self.main_hit or who[0] == main
                self._the_runs()
        self._give_up(now)

    def _give_up(self, now):
        if self.pending() <= 0:
            self.seen, self.give_up_at = now, None
        elif self.give_up_at is None:
            self.give_up_at = time.monotonic() + GIVE_UP_SECONDS
        elif time.monotonic() >= self.give_up_at:
            self.unsure += self.pending()
            self.settled = accounting.oom_kills()
            self.seen, self.give_up_at = now, None

    def _hit(self, now):
        """Who may be what was killed, the largest first; nobody who is smaller than one that lives on."""
        both = {**self.seen, **now}
        known = {who: max(both[who], self.seen.get(who, both[who])) for who in both if who not in self.done}
        hit = {who for who in known if who not in now or _carries_kill(who[0])}
        most = max((known[who][0] for who in known if who not in hit), default=0)
        found = [(who, known[who]) for who in hit if known[who][0] >= most]
        return sorted(found, key=lambda each: -each[1][0])

    def _command(self, pid):
        living = (each for each in self.background.processes.values() if not each.ended)
        return next((each for each in living if each.pid == pid and not each.hit), None)

    def _census(self):
        """Of every process that lives, by pid and when it began: its resident pages, and whether it is a
        background process's."""
        found = {pid: fields for pid in trees.numbers() if (fields := trees.fields(pid))}
        roots = self.background.roots()
        kin = trees.members(roots, {pid: int(fields[1]) for pid, fields in found.items()})
        return {
            (pid, fields[STARTED]): (int(fields[RSS]), pid in kin)
            for pid, fields in found.items()
            if pid not in roots and int(fields[RSS])
        }


def _carries_kill(pid):
    """Whether SIGKILL has been sent to a process that has not died of it yet, or it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        lines = os.read(fd, 8192).splitlines()
    except OSError:
        return True
    finally:
        os.close(fd)
    pending = [int(line.split()[1], 16) for line in lines if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(each & KILLED for each in pending)
