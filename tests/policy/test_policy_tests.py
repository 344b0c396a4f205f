"""A policy's own tests: cases, coverage, and mutants that each test suite has to notice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox_server.errors import ConfigError
from sandbox_server.policy.cases import Case, parse_cases
from sandbox_server.policy.loader import parse_policy
from sandbox_server.policy.models import Policy
from sandbox_server.policy.mutants import mutants
from sandbox_server.policy.testing import coverage, mutate, run_cases

POLICY = """
schema: sandbox-policy/v1
principals:
  - {match: {iss: "https://idp.example.com", claims: {groups: [analysts]}}, roles: [analyst]}
roles:
  analyst:
    tools: {allow: [web_api]}
    web:
      allow: [{id: gh, hosts: [api.github.com], methods: [GET, HEAD], paths: ["/repos/acme/**"]}]
      deny: [{id: keys, hosts: [api.github.com], paths: ["/repos/acme/*/keys"]}]
"""
WHO = 'principal: {iss: "https://idp.example.com", claims: {groups: [analysts]}}'


def case(name: str, url: str, expect: str, *, who: str = WHO, method: str = "GET") -> str:
    request = f'{{tool: web_api, args: {{method: {method}, url: "{url}"}}}}'
    return f"- name: {name}\n  {who}\n  request: {request}\n  expect: {expect}\n"


ALLOWED = '{decision: allow, rule: "roles.analyst.web.allow[gh]"}'
DENIED = '{decision: deny, rule: "roles.analyst.web.deny[keys]"}'
FULL = (
    case("reads", "https://api.github.com/repos/acme/x", ALLOWED)
    + case("keys", "https://api.github.com/repos/acme/x/keys", DENIED)
    + case("others", "https://api.github.com/repos/other/x", "{decision: deny, reason: web.path}")
    + case("uploads", "https://uploads.github.com/repos/acme/x", "{decision: deny}")
    + case("posts", "https://api.github.com/repos/acme/x", "{decision: deny}", method="POST")
    + case("plain", "http://api.github.com/repos/acme/x", "{decision: deny}")
    + case("nobody", "https://api.github.com/repos/acme/x", "{decision: deny}", who="principal: {}")
    + case(
        "another issuer", "https://api.github.com/repos/acme/x", "{decision: deny}",
        who='principal: {iss: "https://other.example.com", claims: {groups: [analysts]}}',
    )
    + case(
        "another group", "https://api.github.com/repos/acme/x", "{decision: deny}",
        who='principal: {iss: "https://idp.example.com", claims: {groups: [sales]}}',
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def policy() -> Policy:
    return parse_policy(POLICY.encode(), source="policy.yaml")


def cases(text: str) -> list[tuple[str, Case]]:
    return [("policy.test.yaml", each) for each in parse_cases(text.encode(), source="policy.test.yaml")]


def test_cases_that_hold_pass_and_cover_every_rule(policy: Policy) -> None:
    outcomes = run_cases(policy, cases(FULL))
    assert [outcome.wrong for outcome in outcomes] == [""] * 9
    covered = coverage(policy, outcomes)
    assert covered.missed == ()
    assert set(covered.hit) == {
        "roles.analyst.tools.allow[0]",
        "roles.analyst.web.allow[gh]",
        "roles.analyst.web.deny[keys]",
    }


def test_a_case_that_fails_says_what_came_instead_and_why(policy: Policy) -> None:
    text = case("wrong", "https://api.github.com/repos/acme/x/keys", "{decision: allow, rule: default}")
    (outcome,) = run_cases(policy, cases(text))
    assert not outcome.passed
    assert "decision: expected allow, got deny" in outcome.wrong
    assert "rule: expected default, got roles.analyst.web.deny[keys]" in outcome.wrong


def test_limits_can_be_expected_with_their_numbers(policy: Policy) -> None:
    text = case("l", "https://api.github.com/repos/acme/x", "{decision: allow, limits: {redirects: 5}}")
    assert run_cases(policy, cases(text))[0].passed
    text = case("l", "https://api.github.com/repos/acme/x", "{decision: allow, limits: {redirects: 9}}")
    assert "limits.redirects: expected 9, got 5" in run_cases(policy, cases(text))[0].wrong


def test_rules_that_no_case_reaches_are_named(policy: Policy) -> None:
    only = cases(case("reads", "https://api.github.com/repos/acme/x", "{decision: allow}"))
    assert coverage(policy, run_cases(policy, only)).missed == ("roles.analyst.web.deny[keys]",)


def test_tests_that_look_at_both_sides_of_each_rule_notice_every_mutant(policy: Policy) -> None:
    found = mutate(policy, [each for _, each in cases(FULL)])
    assert found.tried >= 7
    assert found.survivors == ()


@pytest.mark.parametrize(
    ("missing", "survivor"),
    [
        ("keys", "roles.analyst.web.deny[keys]: dropped"),
        ("others", "roles.analyst.web.allow[gh]: /repos/acme/** widened to /repos/**"),
        ("uploads", "roles.analyst.web.allow[gh]: api.github.com widened to *.github.com"),
        ("posts", "roles.analyst.web.allow[gh]: methods widened to all"),
        ("plain", "roles.analyst.web.allow[gh]: schemes widened to all"),
        ("another issuer", "principals[0].match: no iss asked for"),
        ("another group", "principals[0].match: no claim groups asked for"),
    ],
)
def test_without_its_case_a_mutant_survives_and_is_named(policy: Policy, missing: str, survivor: str) -> None:
    found = mutate(policy, [each for _, each in cases(FULL) if each.name != missing])
    assert [f"{each.rule}: {each.change}" for each in found.survivors] == [survivor]


def test_every_mutant_is_a_policy_of_its_own_that_loads(policy: Policy) -> None:
    dumped = {mutant.file.model_dump_json(by_alias=True) for mutant in mutants(policy.file)}
    assert len(dumped) == len(list(mutants(policy.file)))
    assert policy.file.model_dump_json(by_alias=True) not in dumped
    for mutant in mutants(policy.file):
        assert parse_policy(mutant.file.model_dump_json(by_alias=True).encode(), source="mutant")


def test_a_policy_of_another_file_leaves_the_first_as_it_was(policy: Policy) -> None:
    other = policy.with_file(policy.file.model_copy(update={"principals": ()}))
    assert run_cases(other, cases(FULL))[0].decision.effect == "deny"
    assert run_cases(policy, cases(FULL))[0].decision.effect == "allow"
    assert replace(policy) == policy


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- {name: a}", "t.yaml:1:1: [0].request: is required"),
        (
            "- {name: a, request: {tool: x}, expect: {decision: maybe}}",
            "t.yaml:1:52: [0].expect.decision: expected",
        ),
        (
            "- {name: a, request: {tool: x}, expect: {decision: deny, rulle: x}}",
            "[0].expect.rulle: unknown key",
        ),
        ("name: a", "expected a list"),
        ("- {name: a, name: b}", "duplicate key"),
    ],
)
def test_a_mistake_in_a_case_has_its_place(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_cases(text.encode(), source="t.yaml")
    assert complaint in raised.value.message
