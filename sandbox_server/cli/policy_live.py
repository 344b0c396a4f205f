"""`policy lint --live`: what the logins of the databases may really do, beside what the policy says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio

from sandbox_server.access.database.audit import audit
from sandbox_server.access.database.granted import settings_of
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.errors import SandboxServerError
from sandbox_server.policy.document import Path
from sandbox_server.policy.lint import Finding
from sandbox_server.policy.models import Policy


def live_findings(policy: Policy, secret: Callable[[str], str]) -> list[Finding]:
    """Connects to each database with the rules of each role that grants it."""
    return anyio.run(_all, policy, secret)


async def _all(policy: Policy, secret: Callable[[str], str]) -> list[Finding]:
    found: list[Finding] = []
    for path, settings in _grants(policy):
        found += await _one(path, settings, secret)
    return found


def _grants(policy: Policy) -> Iterator[tuple[Path, DatabaseSettings]]:
    for role in policy.file.roles:
        for name, grants in policy.compiled.effective((role,)).databases.items():
            for grant in grants:
                if grant.rule == f"roles.{role}.databases.{name}":  # inherited: looked at there
                    yield ("roles", role, "databases", name), settings_of(grant)


async def _one(path: Path, settings: DatabaseSettings, secret: Callable[[str], str]) -> list[Finding]:
    try:
        seen = await audit(settings, secret)
    except SandboxServerError as error:
        hint = error.hint or "without it nobody knows what the login may do"
        return [Finding("database-unaudited", "warning", path, error.message, hint)]
    return [Finding(each.code.replace(".", "-"), each.level, path, each.message, each.hint) for each in seen]
