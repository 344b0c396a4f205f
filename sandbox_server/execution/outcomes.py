"""From how a job ended to what is said about it. Pure; every case is a line here."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass, replace

from sandbox_server.errors import LimitExceeded, SandboxLost
from sandbox_server.execution.jobs import CloseReport, Exit
from sandbox_server.execution.models import LimitName, Outcome, Packages


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, the limit that ended the run if one did, exit code and signal name."""

    outcome: Outcome
    limit: LimitName | None = None
    exit_code: int | None = None
    signal: str | None = None


def judge(exit: Exit, *, no_space: bool = False, packages: Packages | None = None) -> Verdict:
    """What happened, in this order: what we did to it, what the kernel did, what it did itself.

    `no_space`: the program says of itself that it failed for lack of space, which explains a failure and
    nothing else. `packages` that are not complete: it is their installation that ended.

    Raises SandboxLost if the sandbox died under the run for no reason that we know of: then
    nobody can say how far the code came. Raises LimitExceeded if it could not begin at all.
    """
    if exit.report is None:
        return _judge_without_report(exit)
    report = exit.report
    if report.cause == "no_process":
        raise LimitExceeded(
            "no process could be started: the session's background processes are as many as it may have",
            hint="nothing was run, variables are kept; end some with the tool process, signal KILL",
        )
    code, name = report.exit_code, signal_name(report.signal)
    if exit.host_cause == "output":
        return Verdict("output_limit", "output", code, name)
    if exit.host_cause == "wall":
        return Verdict("timeout", "wall", code, name)
    if exit.host_cause == "cancelled" or report.cause == "cancelled":
        return Verdict("cancelled", None, code, name)
    if report.cause == "cpu":
        return Verdict("timeout", "cpu", code, name)
    # The kernel's own count: the parent of the victim may well have survived and exited with 0. In doubt
    # about whose the victim was it is the run's: that never makes a failure look like success.
    if report.oom_kills + report.oom_unsure > 0:
        return Verdict("out_of_memory", "memory", code, name)
    if packages is None or packages.complete:
        return _judge_program(report, code, name, no_space)
    verdict = _judge_program(report, code, name, no_space or code == errno.ENOSPC)
    return verdict if verdict.outcome == "disk_full" else replace(verdict, outcome="packages_failed")


def _judge_program(report: CloseReport, code: int | None, name: str | None, no_space: bool) -> Verdict:
    if report.stage == "build":
        full = bool(report.full) and code != 0
        return Verdict("disk_full", "disk", code) if full else Verdict("compile_error", None, code, name)
    if name is not None:
        return Verdict("signal", None, code, name)
    if code == 0:
        return Verdict("ok", None, 0)
    if report.full or no_space:
        return Verdict("disk_full", "disk", code)
    return Verdict("error", None, code)


def _judge_without_report(exit: Exit) -> Verdict:
    death = exit.death
    if exit.host_cause == "output":
        return Verdict("output_limit", "output")
    if exit.host_cause == "wall":
        return Verdict("timeout", "wall")
    if death is not None and death.out_of_memory:
        return Verdict("out_of_memory", "memory")
    reason = death.reason if death else "unknown"
    raise SandboxLost(
        f"the sandbox was lost while the code ran: {reason}",
        hint="the code may have run, wholly or in part; nothing of the sandbox survives",
    )


def signal_name(number: int | None) -> str | None:
    """`SIGKILL` for 9; real-time signals as `SIGRTMIN+3`."""
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        realtime = signal.SIGRTMIN < number < signal.SIGRTMAX
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if realtime else f"signal {number}"
