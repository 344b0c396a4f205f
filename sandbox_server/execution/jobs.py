"""What is asked of a runner and what it answers, as values, and as JSON on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox_server import wire
from sandbox_server.engines.base import Death
from sandbox_server.errors import InvalidRequest, LimitExceeded, SandboxServerError
from sandbox_server.execution.models import InputFile
from sandbox_server.execution.uris import QuotedPath

HostCause = Literal["wall", "output", "cancelled"]


MOST_FILES = 64
"""Files of a run that a runner names at most."""
FileSize = Annotated[int, Field(ge=0, lt=2**60)]


class ArtifactsReport(BaseModel):
    """Files that a run created or changed. The runner bounds this, so anything larger is not from it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    files: Annotated[list[tuple[QuotedPath, FileSize]], Field(max_length=MOST_FILES)]
    omitted: Annotated[int, Field(ge=0, lt=2**31)]
    complete: bool


class CloseReport(BaseModel):
    """What the runner says of a run. Strict: a runner that says anything else is not believed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    exit_code: int | None
    signal: int | None
    cause: Literal["cancelled", "cpu", "no_process"] | None
    cpu_us: int | None
    peak_memory: int | None
    oom_kills: int
    oom_unsure: int = 0
    """More that may be a background process's as well."""
    stage: Literal["build", "run"]
    full: list[str]
    alone: bool
    interpreter: Literal["kept", "gone"] | None
    fresh: bool
    clean: bool = False
    ended: Annotated[list[Literal["python", "node", "bash"]], Field(max_length=3)] = []
    artifacts: ArtifactsReport = ArtifactsReport(files=[], omitted=0, complete=True)


class PutReport(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    ok: bool
    error: str = ""
    message: str = ""


class ResetReport(BaseModel):
    """Of a reset, of a ping, and of a scrub, which says what was in its way."""

    model_config = ConfigDict(strict=True, extra="ignore")

    ok: bool
    problem: Annotated[str, Field(max_length=400)] = ""
    cpu_us: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One run as the runner needs it. Times in seconds; `cpu` None means no limit of its own. With
    `keep` the interpreter of `driver` runs it and lives on. `reuse`: look whether the sandbox is clean. Of
    the files that it makes `files_out` are named, None: all that the runner names."""

    mode: Literal["fork", "spawn"]
    file: str
    argv: tuple[str, ...]
    code: str
    args: tuple[str, ...]
    stdin: bytes
    keep: bool
    wall: float
    cpu: float | None
    driver: str | None = None
    build: tuple[str, ...] = ()
    out: str = "main"
    reuse: bool = False
    files_out: int | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job ended. `report` is None if the sandbox died under it; then `death` says how.

    `host_cause` is why *we* stopped it, if we did; `wall` is measured by the server's clock.
    """

    report: CloseReport | None
    death: Death | None
    host_cause: HostCause | None
    wall: float

    def naming(self, most: int | None) -> Exit:
        """With at most so many files named, by the order of their paths; the others are only counted."""
        if most is None or self.report is None or len(self.report.artifacts.files) <= most:
            return self
        found = self.report.artifacts
        named = sorted(found.files)[:most]
        cut = {"files": named, "omitted": found.omitted + len(found.files) - len(named)}
        report = self.report.model_copy(update={"artifacts": found.model_copy(update=cut)})
        return replace(self, report=report)

    @property
    def ended_by_itself(self) -> bool:
        """Neither we nor the kernel had to end it, and nothing of it is left."""
        report = self.report
        return (
            report is not None
            and self.host_cause is None
            and report.cause is None
            and report.oom_kills + report.oom_unsure == 0
            and report.alone
        )


def encode_run(job: Job, *, tunnels: int = 0, hints: Mapping[str, str] | None = None) -> bytes:
    """The payload of its OPEN, with as many tunnels at once as it may have, and what its environment
    gets with them. Raises LimitExceeded if it is too large to send."""
    request = {
        "op": "run",
        "mode": job.mode,
        "file": job.file,
        "argv": list(job.argv),
        "code": job.code.removeprefix("\ufeff"),  # a byte order mark is none of any language
        "args": list(job.args),
        "stdin": bool(job.stdin),
        "keep": job.keep,
        "reuse": job.reuse,
        "cpu": job.cpu,
        "driver": job.driver,
        "build": list(job.build),
        "out": job.out,
        "egress": {"tunnels": tunnels, "env": dict(hints or {})} if tunnels else None,
    }
    message = json.dumps(request, separators=(",", ":")).encode()
    # The runner would take a longer frame for nonsense and end.
    if len(message) > wire.MAX_FROM_HOST:
        raise LimitExceeded(
            f"code and arguments together take {len(message)} bytes as JSON, at most "
            f"{wire.MAX_FROM_HOST} can be sent",
            hint="nothing was run; put large data into files or stdin",
        )
    return message


def close_report(payload: bytes) -> CloseReport | None:
    """None: the runner says something else."""
    try:
        return CloseReport.model_validate_json(payload)
    except ValidationError:
        return None


def put_error(file: InputFile, report: PutReport) -> SandboxServerError:
    """What a refusal to write `file` means to the caller."""
    name = repr(file.path)
    if report.error in ("ENOSPC", "EFBIG", "EDQUOT"):
        return LimitExceeded(
            f"file {name} ({len(file.content)} bytes) does not fit into the workspace",
            hint="nothing was run; send less, or ask the operator for a larger workspace",
        )
    return InvalidRequest(
        f"file {name} can't be written: {report.message}", hint="nothing was run; use another path"
    )


def trust_error(report: PutReport) -> SandboxServerError:
    """What a refusal to take certificates means to the caller."""
    return LimitExceeded(
        f"the certificates for the way out can't be written to /tmp: {report.message}",
        hint="nothing was run; make room in /tmp",
    )
