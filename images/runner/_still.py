"""Between runs nothing moves: kept interpreters stand still, and nothing else is there."""

import os
import signal

import _processes as processes
import _trees as trees


def end_who_moved(supervisor):
    """A kept interpreter that is not at work stands still. It may have made something that wakes it
    (a timer that sends SIGCONT): then it uses what nobody counts, so it ends, with all it started."""
    for interpreter in list(supervisor.interpreters.values()):
        if supervisor.run and supervisor.run.pid == interpreter.pid:
            continue
        if processes.has_moved(interpreter.pid):
            if supervisor.run is None:
                supervisor.kill_interpreters()
                return
            os.kill(interpreter.pid, signal.SIGKILL)


def see_to_it(supervisor):
    """Before anything begins: nothing that was started between two calls may live on in the next."""
    end_who_moved(supervisor)
    if supervisor.ahead is not None:
        return  # no program has run yet, or what had was scrubbed
    kept = supervisor.interpreters.values()
    if not (all(processes.is_still(interpreter.pid) for interpreter in kept) and _is_alone(supervisor)):
        supervisor.kill_interpreters()


def _is_alone(supervisor):
    roots = supervisor.background.roots()
    if not roots:
        return processes.is_alone(supervisor.spared())
    # What a background process has left behind can be ended without a loss.
    return trees.is_alone(supervisor.spared(), roots) or supervisor.kill_all()[0]
