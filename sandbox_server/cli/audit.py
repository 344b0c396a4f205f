"""`sandbox-server audit`: what the decision log proves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sandbox_server.audit.verify import Proof
from sandbox_server.audit.verify import verify as prove
from sandbox_server.cli.failures import unusable
from sandbox_server.config import Settings
from sandbox_server.errors import ConfigError
from sandbox_server.observe.logs import visible


def commands() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="The decision log.", no_args_is_help=True)
    group.callback()(_group)
    group.command("verify")(verify)
    return group


def _group() -> None:
    """The decision log."""


def verify(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files of the log, or its directory. Default: this server's.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="A head printed before: proves that nothing was cut off since.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Prove that no line of the decision log was changed, removed, moved or put in.

    Exit status 0: it holds, 1: it does not, and the first broken line is named, 2: there is nothing to read.
    """
    with unusable(as_json=as_json):
        logs = _logs(paths)
        if head is not None and len(logs) > 1:
            raise ConfigError(
                f"there are {len(logs)} decision logs, and a head belongs to one", hint="name its directory"
            )
        found = [prove(each, head=head) for each in logs]
    if as_json:
        typer.echo(json.dumps([{"holds": proof.holds, **asdict(proof)} for proof in found]))
    else:
        for log, proof in zip(logs, found, strict=True):
            if len(logs) > 1:
                typer.echo(visible(f"{log[0]}:"))
            _tell(proof, asked=head is not None)
    if not all(proof.holds for proof in found):
        raise typer.Exit(1)


def _logs(paths: list[Path] | None) -> list[list[Path]]:
    """Each server of a state directory has a log of its own."""
    if paths:
        return [paths]
    top = Settings.read().state_dir / "decisions"
    found = [[each] for each in sorted(top.glob("*")) if each.is_dir()]
    if not found:
        raise ConfigError(f"{top}: there is no decision log", hint="name its directory or its files")
    return found


def _tell(proof: Proof, *, asked: bool) -> None:
    if proof.broken:
        place = f"{proof.broken.file}:{proof.broken.line}"
        typer.echo(visible(f"broken: {place}: {proof.broken.what}"))
        typer.echo(f"{proof.lines} lines before it hold")
        return
    typer.echo(f"holds: lines {proof.first} to {proof.last} in {proof.files} files")
    if proof.first > 1:
        typer.echo(f"lines 1 to {proof.first - 1} are not here: rotation drops the oldest files")
    if proof.torn:
        typer.echo(f"the last line is cut after {proof.torn} bytes, as by a crash: it says nothing")
    if proof.interrupted or proof.lost:
        typer.echo(f"taken up after a cut line: {proof.interrupted} times; lines never written: {proof.lost}")
    if not asked:
        typer.echo("lines cut off the end show only with --head: keep the head below in another place")
    elif proof.head_at is not None:
        typer.echo(f"the given head is line {proof.head_at}")
    typer.echo(f"head: {proof.head}")
