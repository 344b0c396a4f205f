"""What the lint says, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sandbox_server.policy.document import Path

Severity = Literal["error", "warning", "note"]
"""A note is worth reading and is no reason to stop: it leaves the exit status at 0."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`id` is stable, for programs and for searching the documentation; `fix` is what to write instead."""

    id: str
    severity: Severity
    path: Path
    message: str
    fix: str
    at_key: bool = False


def observing(path: Path) -> Finding:
    """Of a rule that is not enforced."""
    return Finding("observe-on", "warning", path, "this rule only observes", "remove observe: true")
