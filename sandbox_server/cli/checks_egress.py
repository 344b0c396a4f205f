"""What the doctor says of the ways out of sandboxes: profiles, authorities, secrets."""

from __future__ import annotations

from pathlib import Path

from sandbox_server.access.egress.trust import BEGIN, read_bundle
from sandbox_server.cli.checks import Check, failed
from sandbox_server.config import Settings
from sandbox_server.errors import ConfigError
from sandbox_server.policy.models import Policy
from sandbox_server.policy.schema.egress import EgressProfile


def egress_checks(policy: Policy, settings: Settings) -> list[Check]:
    """One for each profile, and one for extra authorities. Reads files, connects to nothing."""
    granted = {role.code.egress for role in policy.file.roles.values() if role.code is not None}
    checks = [
        _profile(name, profile, name in granted) for name, profile in policy.file.egress.profiles.items()
    ]
    named = policy.file.egress.ca_bundle
    for what, path in (
        ("egress.ca_bundle", None if named is None else Path(named)),
        ("SANDBOX_SERVER_CA_BUNDLE", settings.ca_bundle),
    ):
        if path is not None:
            checks.append(_bundle(what, path))
    return checks


def _profile(name: str, profile: EgressProfile, granted: bool) -> Check:
    hosts = [host for rule in profile.allow for host in rule.hosts]
    parts = [f"hosts: {len(hosts)}"]
    if any(rule.terminate for rule in profile.allow):
        parts.append("TLS opened by this deployment's own authority")
    if any(rule.inject for rule in profile.allow):
        parts.append("secrets injected")
    evidence = ", ".join(parts)
    if not granted:
        fix = f"give a role code.egress: {name}, or remove the profile"
        return Check(f"egress {name}", "warn", f"{evidence}; no role is granted it", fix)
    return Check(f"egress {name}", "ok", evidence)


def _bundle(what: str, path: Path) -> Check:
    try:
        count = read_bundle(path).count(BEGIN.encode())
    except ConfigError as error:
        return failed(what, error)
    return Check(what, "ok", f"certificates: {count}, in {path}")
