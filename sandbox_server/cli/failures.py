"""Errors of ours as an operator meets them: one line, a hint, and an exit status from sysexits.h."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import typer

from sandbox_server.errors import (
    AuditUnavailable,
    Busy,
    ConfigError,
    EngineUnavailable,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PolicyDenied,
    SandboxServerError,
)
from sandbox_server.observe.logs import visible

_STATUS: Final[dict[type[SandboxServerError], int]] = {
    ConfigError: 78,
    EngineUnavailable: 69,
    AuditUnavailable: 74,
    Busy: 75,
    InvalidRequest: 64,
    LimitExceeded: 64,
    NotFound: 66,
    PolicyDenied: 77,
}
INTERNAL: Final = 70
INTERRUPTED: Final = 130


@dataclass(slots=True)
class Options:
    """What every command is told before it starts."""

    debug: bool = False


def report(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what is wrong; the exit status. A SystemExit passes through."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    cause = first_cause(error)
    if debug:
        traceback.print_exception(error)
    if isinstance(cause, SandboxServerError):
        typer.echo(f"error: {visible(cause.message, keep_lines=True)}", err=True)
        if cause.hint:
            typer.echo(f"hint: {visible(cause.hint, keep_lines=True)}", err=True)
        return status(cause)
    if isinstance(cause, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(cause, OSError) and cause.errno == errno.EPIPE:
        # `| head` closed the pipe. Python would complain again when it flushes stdout at exit.
        sys.stdout = None
        return 0
    typer.echo(f"error: internal error: {type(cause).__name__}: {visible(str(cause))}", err=True)
    if not debug:
        typer.echo("hint: run again with --debug for the traceback", err=True)
    return INTERNAL


def status(error: SandboxServerError) -> int:
    """The exit status for `error`."""
    return _STATUS.get(type(error), INTERNAL)


def first_cause(error: BaseException) -> BaseException:
    """The first error inside nested task groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def unusable(*, as_json: bool = False) -> Iterator[None]:
    """For commands that judge a file: exit status 2 tells "it can't be read" from 1, "it has findings"."""
    try:
        yield
    except SandboxServerError as error:
        if as_json:
            typer.echo(json.dumps({"error": {"message": error.message, "hint": error.hint}}))
        else:
            report(error, debug=False)
        raise typer.Exit(2) from None
