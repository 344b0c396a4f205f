"""A run: the limits it gets, the job it becomes, and the result made of what came out. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import InvalidRequest, LimitExceeded, PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.execution.capture import Overflow, RunCapture
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.jobs import Exit, Job
from sandbox_server.execution.models import (
    Isolation,
    Packages,
    RunLimits,
    RunRequest,
    RunResult,
    SessionInfo,
    StreamName,
    Timings,
    Usage,
)
from sandbox_server.execution.outcomes import judge


@dataclass
class Clock:
    """The stages of a call, by the monotonic clock."""

    begin: float
    acquired: float = 0.0
    warm: bool = False
    reused: bool = False
    queued: float = 0.0


def capture_for(limits: RunLimits, overflow: Callable[[StreamName], Overflow] | None = None) -> RunCapture:
    return RunCapture(limits.output, limits.output_total, limits.display_total, overflow)


def size_of(request: RunRequest) -> int:
    """Bytes, nearly, that a call keeps in our memory until it ends."""
    texts = len(request.code) + sum(map(len, request.args))
    return texts + len(request.stdin) + sum(len(file.content) for file in request.files)


def effective_limits(asked: RunLimits, grant: Grant) -> RunLimits:
    """What the caller may choose (`wall`, `output`) within the ceiling; the rest is the policy's.

    Raises LimitExceeded above a ceiling and InvalidRequest for what is no limit at all.
    """
    if not asked.wall > 0 or not asked.output >= 0:
        raise InvalidRequest(
            "timeout must be more than 0 and max_output not negative", hint="leave them out for the defaults"
        )
    for name, value, most in (
        ("timeout", asked.wall, grant.ceiling.wall),
        ("max_output", asked.output, grant.ceiling.output),
    ):
        if value > most:
            raise LimitExceeded(
                f"{name} {value:g} is above the limit for {grant.language.name}, {most:g}",
                hint=f"ask for {most:g} or less",
            )
    # A longer run may use more CPU time, in the proportion that the policy has set.
    share = max(1.0, asked.wall / grant.defaults.wall)
    cpu = min(grant.defaults.cpu * share, grant.ceiling.cpu)
    return replace(grant.defaults, wall=asked.wall, output=asked.output, cpu=cpu)


def job_for(request: RunRequest, grant: Grant, *, keep: bool) -> Job:
    language = grant.language
    build = language.build + (language.build_cell if keep and language.build else ())
    return Job(
        mode=language.mode,
        file=language.file,
        argv=language.argv,
        code=request.code,
        args=request.args,
        stdin=request.stdin,
        keep=keep,
        wall=request.limits.wall,
        cpu=request.limits.cpu,
        driver=language.driver,
        build=build,
        out=language.out,
        reuse=request.reuse and not keep,
        files_out=grant.files_out,
    )


def result_of(
    exit: Exit,
    capture: RunCapture,
    grant: Grant,
    clock: Clock,
    session: SessionInfo,
    packages: Packages | None = None,
) -> RunResult:
    """Without what is left behind, see `leftovers`."""
    verdict = judge(exit, no_space=capture.side.no_space, packages=packages)
    report = exit.report
    return RunResult(
        outcome=verdict.outcome,
        exit_code=verdict.exit_code,
        signal=verdict.signal,
        limit=verdict.limit,
        stdout=capture.finish("stdout"),
        stderr=capture.finish("stderr"),
        value=capture.side.value,
        displays=tuple(capture.side.displays),
        displays_omitted=capture.side.omitted,
        usage=Usage(
            wall=exit.wall,
            cpu=report.cpu_us / 1e6 if report and report.cpu_us is not None else None,
            # The kernel's peak is the sandbox's: of one that is used again it may be that of another call.
            peak_memory=report.peak_memory if report and not clock.reused else None,
        ),
        timings=Timings(
            queue=clock.queued,
            acquire=clock.acquired,
            run=exit.wall,
            total=time.monotonic() - clock.begin,
            warm=clock.warm,
            reused=clock.reused,
        ),
        session=session,
        isolation=_isolation(grant.profile),
        packages=packages,
        limit_shared=verdict.limit == "memory" and report is not None and not report.oom_kills,
    )


def check_reuse(request: RunRequest, grant: Grant, caller: Caller, session: str | None) -> None:
    """Raises PolicyDenied or InvalidRequest if this call can't have it."""
    if not grant.reuse or grant.egress:
        with_egress = " with egress: its connections outlive it" if grant.reuse else ""
        raise PolicyDenied(
            f"the policy does not grant reuse for {grant.language.name}{with_egress}",
            rule="code.reuse",
            hint="nothing was run; leave reuse out",
        )
    if session is not None or caller.connection is not None:
        raise InvalidRequest(
            "reuse is for runs without a session, and this call has one",
            hint="nothing was run; leave reuse out: a session keeps its sandbox anyway",
        )


def _isolation(profile: Profile) -> Isolation:
    if profile.runtime == "runsc":
        return Isolation("runsc", "user-space-kernel", None)
    return Isolation(profile.runtime, "container", profile.seccomp)
