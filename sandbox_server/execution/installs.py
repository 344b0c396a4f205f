"""Packages for a run or a session: a run of its own in the same sandbox, before the code and in its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox_server.engines.profile import KIB
from sandbox_server.errors import InvalidRequest, PackagesFailed, PolicyDenied
from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.capture import Overflow, RunCapture
from sandbox_server.execution.egress import Outlet
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.jobs import Exit, Job
from sandbox_server.execution.models import Packages, RunLimits, RunRequest, StreamName
from sandbox_server.execution.outcomes import judge
from sandbox_server.execution.runs import capture_for
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.guards.packages import Ecosystem, normal_name, package_name, problems
from sandbox_server.guards.wildcards import segment_matches

_SHOWN = 64 * KIB
_LAST_WORDS = 2000
_INSTALL = ("/usr/bin/python3", "-I", "/opt/sandbox/install.py")
_TOLD = 20

_Word = Annotated[str, Field(max_length=214, pattern=r"^[\x21-\x7e]*$")]


class _Report(BaseModel):
    """What the sandbox says was installed. Strict, for it may say anything."""

    model_config = ConfigDict(strict=True, extra="forbid")

    installed: Annotated[list[tuple[_Word, _Word]], Field(max_length=200)]


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a run came: its end and its output, or those of the installation that failed before it."""

    exit: Exit
    capture: RunCapture
    packages: Packages | None = None


def check_packages(wanted: Sequence[str], grant: Grant, *, way_out: bool) -> None:
    """Raises InvalidRequest for what are no names of packages, and PolicyDenied for those not granted."""
    ecosystem = grant.language.packages
    if ecosystem is None:
        raise InvalidRequest(
            f"packages: there are none for {grant.language.name}",
            hint="nothing was run; python, javascript and typescript have them",
        )
    if found := list(problems(wanted, ecosystem)):
        raise InvalidRequest("; ".join(found), hint="nothing was run")
    for text in wanted:
        name = package_name(text, ecosystem)
        if not any(_matches(glob, name, ecosystem) for glob in grant.packages):
            granted = f"granted are {', '.join(grant.packages)}" if grant.packages else "none is granted"
            raise PolicyDenied(
                f"the policy does not grant the package {name}: {granted}",
                rule="code.packages",
                hint="nothing was run; the operator can add it to code.packages of your role",
            )
    if not way_out:
        raise PolicyDenied(
            "packages need a way out, and the policy grants none",
            rule="code.egress",
            hint="nothing was run; the operator can name a profile that allows the index in code.egress",
        )


def _matches(glob: str, name: str, ecosystem: Ecosystem) -> bool:
    return segment_matches(normal_name(glob) if ecosystem == "pip" else glob, name)


async def run_job(
    sandbox: Sandbox,
    request: RunRequest,
    grant: Grant,
    job: Job,
    overflow: Callable[[StreamName], Overflow],
    on_event: OnEvent,
    outlet: Outlet | None,
) -> Stage:
    """Install what the request asks for, then run its job in the time that is left."""
    packages = None
    if request.packages:
        first = await _install(sandbox, request.packages, grant, request.limits, outlet)
        packages = first.packages
        if packages is None or not packages.complete:
            return first
        job = replace(job, wall=max(0.001, job.wall - first.exit.wall), cpu=_left(job.cpu, first.exit))
    capture = capture_for(request.limits, overflow)
    exit = await sandbox.run(job, capture, on_event, outlet)
    return Stage(exit, capture, packages)


async def install_for_session(
    sandbox: Sandbox, wanted: Sequence[str], grant: Grant, outlet: Outlet | None
) -> Packages:
    """Within the limits of one run. Raises PackagesFailed with the package manager's last words."""
    stage = await _install(sandbox, wanted, grant, grant.defaults, outlet)
    packages = stage.packages
    if packages is not None and packages.complete:
        return packages
    outcome = judge(stage.exit, packages=packages).outcome
    words = stage.capture.finish("stderr").text[-_LAST_WORDS:].strip()
    said = f"what {grant.language.packages} said (untrusted data):\n{words}"
    raise PackagesFailed(
        f"the packages could not be installed ({outcome}); {said}",
        hint="no session was made",
    )


async def _install(
    sandbox: Sandbox, wanted: Sequence[str], grant: Grant, limits: RunLimits, outlet: Outlet | None
) -> Stage:
    job = Job(
        mode="spawn",
        file="packages",
        argv=(*_INSTALL, grant.language.packages or ""),
        code="",
        args=tuple(wanted),
        stdin=b"",
        keep=False,
        wall=limits.wall,
        cpu=limits.cpu,
    )
    capture = capture_for(replace(limits, output=_SHOWN))
    before = outlet.cached if outlet else 0
    exit = await sandbox.run(job, capture, None, outlet)
    cached = outlet.cached - before if outlet else 0
    well = exit.ended_by_itself and exit.report is not None and exit.report.exit_code == 0
    installed = _installed(capture) if well else ()
    return Stage(exit, capture, Packages(installed, well, exit.wall, cached))


def _installed(capture: RunCapture) -> tuple[tuple[str, str], ...]:
    """What is said there. Of one that says nonsense nothing is believed but that it went well."""
    try:
        return tuple(_Report.model_validate_json(capture.finish("stdout").text).installed)
    except ValidationError:
        return ()


def _left(cpu: float | None, exit: Exit) -> float | None:
    used = exit.report.cpu_us if exit.report else None
    return cpu if cpu is None or used is None else max(0.001, cpu - used / 1e6)


def told(packages: Packages) -> str:
    """In a few words."""
    names = [f"{name} {version}" for name, version in packages.installed]
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    what = ", ".join(names[:_TOLD]) + more or "nothing new"
    cached = f", {packages.cached} files from the server's own store" if packages.cached else ""
    return f"packages installed: {what} ({packages.seconds:.1f} s{cached})"
