"""`sandbox-server doctor`: is this machine fit, and does the server really work on it?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio
import anyio.to_thread
import typer
from rich.console import Console
from rich.markup import escape

from sandbox_server import app
from sandbox_server.access.egress.indexes import Indexes
from sandbox_server.cli import options
from sandbox_server.cli.checks import (
    Check,
    disk_check,
    engine_checks,
    failed,
    image_check,
    policy_check,
    profile_checks,
)
from sandbox_server.cli.checks_egress import egress_checks
from sandbox_server.cli.checks_indexes import index_checks
from sandbox_server.cli.failures import INTERRUPTED
from sandbox_server.cli.trial import try_sandboxes
from sandbox_server.config import Settings
from sandbox_server.errors import SandboxServerError
from sandbox_server.images.inventory import statuses
from sandbox_server.observe.logs import visible
from sandbox_server.policy.models import Policy

Report = Callable[[Check], None]

_SIGNS: Final = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print all checks as JSON.")] = False,
    policy: options.Policy = None,
    state_dir: options.StateDir = None,
    insecure_allow_missing: options.AllowMissing = None,
) -> None:
    """Check this machine and run real sandboxes on it. Exit status 1 if something fails."""
    settings = Settings.read(
        policy=policy,
        state_dir=state_dir,
        insecure_allow_missing=frozenset(insecure_allow_missing or ()),
    )
    console = Console(highlight=False)
    checks: list[Check] = []

    def report(check: Check) -> None:
        checks.append(check)
        if not as_json:
            _print(console, check)

    _, received = anyio.run(partial(app.until_signalled, partial(examine, settings, report)))
    if received is not None:
        raise typer.Exit(INTERRUPTED)
    ok = all(check.grade != "fail" for check in checks)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=2))
    raise typer.Exit(0 if ok else 1)


async def examine(settings: Settings, report: Report) -> None:
    """Every check, in an order in which each needs only what was found sound before it."""
    try:
        async with app.open_stack(settings, narrow=_one_at_a_time) as stack:
            # Caught here as well: on their way out task groups would wrap it.
            try:
                await _examine(stack, settings, report)
            except SandboxServerError as error:
                report(_trouble(error))
    except SandboxServerError as error:
        report(_trouble(error))


async def _examine(stack: app.Stack, settings: Settings, report: Report) -> None:
    policy = stack.policy
    report(policy_check(policy))
    for check in await anyio.to_thread.run_sync(index_checks, policy, Indexes(settings.state_dir / "egress")):
        report(check)
    for check in egress_checks(policy, settings):
        report(check)
    info = await stack.engine.probe()
    for check in engine_checks(info, policy, settings.insecure_allow_missing):
        report(check)
    report(disk_check(Path(info.facts.get("root_dir") or "/var/lib/docker")))
    async with app.open_image_store(settings) as store:
        images = image_check(await statuses(store), policy)
    report(images)
    profiles = await profile_checks(stack.engine, policy)
    for check in profiles:
        report(check)
    if all(check.grade != "fail" for check in (images, *profiles)):
        for check in await try_sandboxes(stack):
            report(check)


def _trouble(error: SandboxServerError) -> Check:
    return failed(_NAMES.get(error.code, "server"), error)


_NAMES: Final = {"config_error": "configuration", "engine_unavailable": "engine"}


def _one_at_a_time(policy: Policy) -> Policy:
    """Nothing warm: the doctor starts what it looks at, for whichever role it is. What the policy promises is
    still judged."""
    return replace(policy, grants=policy.variants(), sizing=replace(policy.sizing, warm=0))


def _print(console: Console, check: Check) -> None:
    console.print(f"{_SIGNS[check.grade]}  {check.name:18} {escape(visible(check.evidence))}", soft_wrap=True)
    if check.fix and check.grade != "ok":
        console.print(f"      {'':18} [dim]fix:[/] {escape(visible(check.fix))}", soft_wrap=True)
