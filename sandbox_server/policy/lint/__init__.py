"""What is suspicious in a policy that loads: pure, and each finding is a class of mistake somebody made."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox_server.policy.lint import data, network, reach, whole
from sandbox_server.policy.lint.findings import Finding, Severity
from sandbox_server.policy.schema.file import PolicyFile

__all__ = ["Finding", "Severity", "lint"]

_CHECKS = (whole.check, reach.check, network.check, data.check)


def lint(file: PolicyFile) -> Iterable[Finding]:
    """In no order; `Document.mark` of a finding's path is its place."""
    for check in _CHECKS:
        yield from check(file)
