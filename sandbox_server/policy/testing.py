"""Runs a policy's own tests: which fail, which rules none of them reaches, which mistakes they would miss."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sandbox_server.policy.cases import Case
from sandbox_server.policy.decision import Decision
from sandbox_server.policy.effective import rules_of
from sandbox_server.policy.engine import decide
from sandbox_server.policy.models import Policy
from sandbox_server.policy.mutants import mutants

_RULE = re.compile(r"(?:roles|egress|principals)(?:\.[A-Za-z0-9_$-]+|\[[^\]\s]*\])+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`wrong` says what was expected and what came, "" if the case passed."""

    case: str
    file: str
    wrong: str
    decision: Decision = field(compare=False, repr=False)

    @property
    def passed(self) -> bool:
        return not self.wrong


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rules that decided, or let pass, in some case; of all that could."""

    hit: tuple[str, ...]
    missed: tuple[str, ...]

    @property
    def total(self) -> int:
        return len(self.hit) + len(self.missed)


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change of the policy that no test notices. `rule` is what was changed, `change` how."""

    rule: str
    change: str


@dataclass(frozen=True, slots=True)
class Mutation:
    tried: int
    survivors: tuple[Survivor, ...]


def run_cases(policy: Policy, cases: Iterable[tuple[str, Case]]) -> list[Outcome]:
    """`cases` with the file that each is from."""
    found = []
    for file, case in cases:
        decision = decide(policy, case.principal.principal(), case.asked())
        found.append(Outcome(case.name, file, _wrong(case, decision), decision))
    return found


def coverage(policy: Policy, outcomes: Iterable[Outcome]) -> Coverage:
    every = dict.fromkeys(
        rule for role in policy.file.roles for rule in rules_of(policy.compiled.effective((role,)))
    )
    hit = {rule for outcome in outcomes for rule in _touched(outcome.decision)}
    return Coverage(
        tuple(rule for rule in every if rule in hit), tuple(rule for rule in every if rule not in hit)
    )


def mutate(policy: Policy, cases: Sequence[Case]) -> Mutation:
    """Every mistake that can be made with one rule: each has to make some case fail."""
    tried, survivors = 0, []
    for mutant in mutants(policy.file):
        tried += 1
        changed = policy.with_file(mutant.file)
        if not any(_fails(changed, case) for case in cases):
            survivors.append(Survivor(mutant.rule, mutant.change))
    return Mutation(tried, tuple(survivors))


def _fails(policy: Policy, case: Case) -> bool:
    return bool(_wrong(case, decide(policy, case.principal.principal(), case.asked())))


def _touched(decision: Decision) -> Iterator[str]:
    yield decision.rule
    for limit in decision.limits.values():
        yield limit.source
    for line in decision.trace:
        yield from _RULE.findall(line)


def _wrong(case: Case, decision: Decision) -> str:
    expect = case.expect
    pairs: list[tuple[str, object, object]] = [("decision", expect.decision, decision.effect)]
    for name in ("rule", "reason", "would_deny"):
        if (wanted := getattr(expect, name)) is not None:
            pairs.append((name, wanted, getattr(decision, name)))
    for name, number in expect.limits.items():
        limit = decision.limits.get(name)
        pairs.append((f"limits.{name}", number, limit.value if limit else None))
    wrong = [f"{name}: expected {wanted}, got {got}" for name, wanted, got in pairs if wanted != got]
    if wrong:
        wrong.append(f"decided by {decision.rule} ({decision.reason}): {decision.message}")
    return "; ".join(wrong)
