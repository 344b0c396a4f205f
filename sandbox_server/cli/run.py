"""`sandbox-server run`: one program through the whole stack, in this process."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer

from sandbox_server import app
from sandbox_server.cli import options
from sandbox_server.cli.failures import INTERRUPTED, first_cause, status
from sandbox_server.cli.output import Screen, as_json, error_json, note, save_displays
from sandbox_server.config import Settings
from sandbox_server.errors import InvalidRequest, SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.models import InputFile, RunRequest, RunResult
from sandbox_server.policy.models import Policy

_SUFFIXES: Final = {".py": "python", ".js": "javascript", ".mjs": "javascript", ".sh": "bash"}
_TIMED_OUT: Final = 124
_FAILED: Final = 125
_LEAST: Final = 0.1


def run(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The program; - reads it from stdin.")],
    args: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of the program; those that begin with - go behind --."),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="Default: from the file's name, else python.")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", "-t", help="Seconds on the clock.")] = None,
    files: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="Put this file into the workspace. Repeatable.")
    ] = None,
    stdin: Annotated[Path | None, typer.Option(help="A file that the program reads as its stdin.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Save plots and other displays here.")] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    policy: options.Policy = None,
    state_dir: options.StateDir = None,
    insecure_allow_missing: options.AllowMissing = None,
) -> None:
    """Run a program in a fresh sandbox.

    With the limits of the caller without a token, or else of the first role that has the language.
    Its stdout and stderr come out as it writes them. The exit status is the program's own;
    128+N if signal N ended it, 124 if time did, 137 if memory did. Trouble of ours: 69 no
    engine, 75 busy, 78 wrong configuration, 125 anything else.
    """
    settings = Settings.read(
        policy=policy,
        state_dir=state_dir,
        insecure_allow_missing=frozenset(insecure_allow_missing or ()),
    )
    try:
        if timeout is not None and not timeout >= _LEAST:  # this way round NaN is refused, too
            raise InvalidRequest(
                f"timeout {timeout:g} is too small", hint=f"give at least {_LEAST:g} seconds"
            )
        request = RunRequest(
            language=_language(language, file),
            code=_text(file),
            args=tuple(args or ()),
            stdin=_bytes(stdin) if stdin else b"",
            files=tuple(InputFile(path.name, _bytes(path)) for path in files or ()),
        )
        work = partial(_run, settings, request, timeout, live=not as_json_)
        result, received = anyio.run(partial(app.until_signalled, work))
    except (SandboxServerError, ExceptionGroup) as error:
        cause = first_cause(error)
        if as_json_ and isinstance(cause, SandboxServerError):
            typer.echo(json.dumps(error_json(cause)))
        if isinstance(cause, SandboxServerError) and status(cause) not in (69, 75, 78):
            note(f"error: {cause.message}")
            note(f"hint: {cause.hint}" if cause.hint else "")
            raise typer.Exit(_FAILED) from None
        raise
    if result is None:
        raise typer.Exit(128 + received if received else INTERRUPTED)
    saved = save_displays(result, output_dir) if output_dir else ()
    if as_json_:
        typer.echo(json.dumps(as_json(result, saved), ensure_ascii=True))
    else:
        _explain(result, saved, output_dir)
    raise typer.Exit(exit_status(result))


async def _run(settings: Settings, request: RunRequest, timeout: float | None, *, live: bool) -> RunResult:
    async with app.open_stack(settings, narrow=partial(only, language=request.language)) as stack:
        limits = stack.policy.grants[request.language].defaults
        if timeout is not None:
            limits = replace(limits, wall=timeout)
        async with Screen(live=live) as screen:
            request = replace(request, limits=limits)
            return await stack.manager.run(request, caller=Caller(), on_event=screen.show)


def only(policy: Policy, language: str) -> Policy:
    """The policy for one run in `language`: no warm sandboxes that nobody would ever take. Whoever may start
    this command is nobody whom the policy tells apart: the first role that has the language will do."""
    granted = {**policy.variants(), **policy.grants}
    if language not in granted:
        names = ", ".join(dict.fromkeys(grant.language.name for grant in granted.values()))
        raise InvalidRequest(f"the policy does not grant the language {language}", hint=f"granted: {names}")
    grant = granted[language]
    sizing = replace(policy.sizing, warm=0)
    return replace(policy, grants={language: grant}, every_grant=(grant,), sizing=sizing)


def exit_status(result: RunResult) -> int:
    """What a shell would show for this result. Never 0 for a program that did not end well."""
    match result.outcome:
        case "ok":
            return 0
        case "timeout":
            return _TIMED_OUT
        case "out_of_memory":
            return 128 + signal.SIGKILL
        case "cancelled":
            return INTERRUPTED
        case "signal":
            return 128 + _number(result.signal)
    return result.exit_code or 1


def _number(name: str | None) -> int:
    try:
        return signal.Signals[name or ""].value
    except KeyError:
        return signal.SIGKILL.value


def _explain(result: RunResult, saved: tuple[Path, ...], output_dir: Path | None) -> None:
    """What stdout and stderr of the program don't tell, on stderr."""
    if result.value is not None:
        note(f"=> {result.value}")
    for path in saved:
        note(f"saved {path}")
    if result.displays and output_dir is None:
        note(f"{len(result.displays)} displays, not saved: give --output-dir")
    if result.outcome not in ("ok", "error"):
        limit = f" ({result.limit} limit)" if result.limit else ""
        named = f" {result.signal}" if result.outcome == "signal" else ""
        note(f"ended by {result.outcome.replace('_', ' ')}{named}{limit} after {result.usage.wall:.2f} s")


def _language(named: str | None, file: str) -> str:
    if named is None:
        return _SUFFIXES.get(Path(file).suffix, "python")
    for language in LANGUAGES.values():
        if named == language.name or named in language.aliases:
            return language.name
    raise InvalidRequest(f"unknown language {named}", hint=f"known: {', '.join(LANGUAGES)}")


def _text(file: str) -> str:
    raw = sys.stdin.buffer.read() if file == "-" else _bytes(Path(file))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file}: is not UTF-8 text (byte {error.start})") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
