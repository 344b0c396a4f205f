"""Rules that no test of the policy reaches. Reads the test files, so it stands apart from the pure checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path as FilePath

from sandbox_server.policy.cases import load_cases
from sandbox_server.policy.document import Path
from sandbox_server.policy.lint.findings import Finding
from sandbox_server.policy.models import Policy
from sandbox_server.policy.testing import coverage, run_cases

_STEP = re.compile(r"([^.\[\]]+)|\[([^\]]*)\]")
_MOST_SAID = 50


def untested(policy: Policy, directory: FilePath) -> Iterator[Finding]:
    """Raises ConfigError if a test file can't be read."""
    if not policy.file.tests:
        return
    cases = [(name, case) for name in policy.file.tests for case in load_cases(directory / name)]
    outcomes = run_cases(policy, cases)
    failed = [outcome.case for outcome in outcomes if not outcome.passed]
    if failed:
        what = f"{len(failed)} tests fail, {failed[0]!r} among them"
        yield Finding("failing-tests", "error", ("tests",), what, "sandbox-server policy test says more")
    missed = coverage(policy, outcomes).missed
    for rule in missed[:_MOST_SAID]:
        what = f"no test reaches {rule}"
        yield Finding("uncovered-rule", "warning", _path(policy, rule), what, "add a case that it decides")
    if len(missed) > _MOST_SAID:
        what = f"no test reaches {len(missed) - _MOST_SAID} more rules"
        yield Finding("uncovered-rule", "warning", ("tests",), what, "sandbox-server policy test names them")


def _path(policy: Policy, rule: str) -> Path:
    """The place of `roles.analyst.web.allow[gh-read]`: an id is looked up in its list."""
    path: list[str | int] = []
    here: object = policy.file
    for name, index in _STEP.findall(rule):
        if name:
            path.append(name)
            here = here.get(name) if isinstance(here, dict) else getattr(here, name, None)
        elif isinstance(here, tuple):
            known = [getattr(each, "id", None) for each in here]
            place = known.index(index) if index in known else int(index) if index.isdigit() else 0
            path.append(place)
            here = here[place] if place < len(here) else None
    return tuple(path)
