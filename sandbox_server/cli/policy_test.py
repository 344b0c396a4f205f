"""`sandbox-server policy test`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

import typer

from sandbox_server.cli.failures import unusable
from sandbox_server.config import Settings
from sandbox_server.errors import ConfigError
from sandbox_server.observe.logs import visible
from sandbox_server.policy.cases import load_cases
from sandbox_server.policy.loader import load_policy
from sandbox_server.policy.testing import Coverage, Mutation, Outcome, coverage, run_cases
from sandbox_server.policy.testing import mutate as try_mutants


def run_tests(
    file: Annotated[Path | None, typer.Argument(help="Default: the policy that `serve` would take.")] = None,
    mutate: Annotated[
        bool, typer.Option("--mutate", help="Drop each deny, widen each glob: some test must notice.")
    ] = False,
    cover: Annotated[
        bool, typer.Option("--coverage", help="Fail unless every rule is reached by some test.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the tests that a policy names.

    Exit status 0: all pass, 1: one fails (or a rule is missed, or a mutant survives), 2: nothing can be run.
    """
    with unusable(as_json=as_json):
        path = file or Settings.read().policy
        policy = load_policy(path)
        cases = [(name, case) for name in policy.file.tests for case in load_cases(path.parent / name)]
        if not cases:
            raise ConfigError(f"{path} has no tests", hint="write cases in a *.test.yaml, named under tests:")
        outcomes = run_cases(policy, cases)
        covered = coverage(policy, outcomes)
        mutation = try_mutants(policy, [case for _, case in cases]) if mutate else None
        if junit:
            _write_junit(junit, outcomes)
    if as_json:
        typer.echo(json.dumps(_report(outcomes, covered, mutation), indent=2))
    else:
        for line in _lines(outcomes, covered, mutation, name_missed=cover):
            typer.echo(visible(line))
    failed = any(not outcome.passed for outcome in outcomes)
    if failed or (cover and covered.missed) or (mutation and mutation.survivors):
        raise typer.Exit(1)


def _lines(
    outcomes: Sequence[Outcome], covered: Coverage, mutation: Mutation | None, *, name_missed: bool
) -> Iterator[str]:
    for outcome in outcomes:
        if not outcome.passed:
            yield f"FAIL {outcome.file}: {outcome.case}: {outcome.wrong}"
    passed = sum(outcome.passed for outcome in outcomes)
    yield f"{passed} of {len(outcomes)} tests pass; {len(covered.hit)} of {covered.total} rules covered"
    if name_missed or len(covered.missed) <= 10:
        yield from (f"  not covered: {rule}" for rule in covered.missed)
    if mutation:
        yield f"{mutation.tried - len(mutation.survivors)} of {mutation.tried} mutants noticed"
        yield from (f"  survived: {each.rule}: {each.change}" for each in mutation.survivors)


def _report(outcomes: Sequence[Outcome], covered: Coverage, mutation: Mutation | None) -> dict[str, object]:
    return {
        "cases": [{"file": o.file, "name": o.case, "passed": o.passed, "wrong": o.wrong} for o in outcomes],
        "coverage": {"hit": len(covered.hit), "total": covered.total, "missed": list(covered.missed)},
        "mutation": asdict(mutation) if mutation else None,
    }


def _write_junit(path: Path, outcomes: Sequence[Outcome]) -> None:
    failures = sum(not outcome.passed for outcome in outcomes)
    suite = ElementTree.Element("testsuite", name="policy", tests=str(len(outcomes)), failures=str(failures))
    for outcome in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname=outcome.file, name=visible(outcome.case))
        if not outcome.passed:
            ElementTree.SubElement(case, "failure", message=visible(outcome.wrong))
    try:
        ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", hint="give another file") from None
