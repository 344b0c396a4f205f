"""`sandbox-server policy lint`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from sandbox_server import app
from sandbox_server.cli.failures import unusable
from sandbox_server.cli.policy_live import live_findings
from sandbox_server.config import Settings
from sandbox_server.images.inventory import statuses
from sandbox_server.observe.logs import visible
from sandbox_server.outside import open_secrets
from sandbox_server.policy.document import Document
from sandbox_server.policy.lint import Finding, Severity
from sandbox_server.policy.lint import lint as findings_of
from sandbox_server.policy.lint.untested import untested
from sandbox_server.policy.lint.whole import check_images
from sandbox_server.policy.loader import dotted, policy_of, read_document
from sandbox_server.policy.models import Policy


@dataclass(frozen=True, slots=True)
class Located:
    """A finding with its place. `at` is the path in the policy."""

    file: str
    line: int
    column: int
    id: str
    severity: Severity
    at: str
    message: str
    fix: str


def lint(
    file: Annotated[Path | None, typer.Argument(help="Default: the policy that `serve` would take.")] = None,
    images: Annotated[bool, typer.Option("--images", help="Also ask the engine for the images.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Also connect to the databases: can their logins do more?")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say what is wrong or suspicious in a policy.

    Exit status 0: nothing but notes, 1: findings, 2: it does not load.
    """
    with unusable(as_json=as_json):
        path = file or Settings.read().policy
        document = read_document(path)
        policy = policy_of(document, source=str(path))
        found = [_located(each, document, path) for each in _all(policy, path, images=images, live=live)]
    found.sort(key=lambda each: (each.file != str(path), each.file, each.line, each.column))
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            place = f"{each.file}:{each.line}:{each.column}: {each.severity}: {each.at}"
            typer.echo(visible(f"{place}{': ' if each.at else ''}{each.message} [{each.id}]"))
            typer.echo(visible(f"    fix: {each.fix}"))
        if not found:
            typer.echo(f"{path}: no findings")
    if any(each.severity != "note" for each in found):
        raise typer.Exit(1)


def _all(policy: Policy, path: Path, *, images: bool, live: bool) -> Iterator[Finding]:
    yield from findings_of(policy.file)
    yield from untested(policy, path.parent)
    if images:
        named = {grant.language.name: grant for grant in policy.every_grant}
        yield from check_images(named, _images())
    if live:
        yield from live_findings(policy, open_secrets(Settings.read()).get)


def _images() -> frozenset[str]:
    async def there() -> frozenset[str]:
        async with app.open_image_store(Settings.read()) as store:
            return frozenset(each.name for each in await statuses(store) if each.state != "missing")

    return anyio.run(partial(there))


def _located(finding: Finding, document: Document, path: Path) -> Located:
    mark = document.mark(finding.path, key=finding.at_key)
    sibling = mark.file and not mark.file.startswith("preset ")
    return Located(
        file=str(path.parent / mark.file) if sibling else mark.file or str(path),
        line=mark.line,
        column=mark.column,
        id=finding.id,
        severity=finding.severity,
        at=dotted(finding.path),
        message=finding.message,
        fix=finding.fix,
    )
