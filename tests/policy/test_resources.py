"""What can be read by its URI: by the rules of what made it, and also where a policy only observes."""

from __future__ import annotations

import pytest

from tests.policy.support import ask, policy_of

ANY = "allow: [{path: '/workspace/**', ops: [read]}]"
FILE = f"sandbox://{'a' * 32}/d/a"
ALL_KINDS = """
resources: [{api: {name: status, url: 'https://a.example.com/status'}}, {api: {name: own, url: 'http://169.254.169.254/'}}]
"""


@pytest.mark.parametrize("uri", ["api://status", "db://shop/schema", f"run://{'a' * 32}/stdout", FILE])
def test_a_policy_that_observes_lets_resources_through_too(uri: str) -> None:
    roles = "{r: {tools: {allow: []}, databases: {shop: {dsn: secret://x, dialect: sqlite}}}}"
    enforced, observed = (
        ask(policy_of(roles, ALL_KINDS + more), "resource", uri=uri)
        for more in ("", "enforcement: observe\n")
    )
    assert (enforced.effect, enforced.would_deny) == ("deny", False)
    assert (observed.effect, observed.would_deny) == ("allow", True)
    assert (observed.rule, observed.reason) == (enforced.rule, enforced.reason)


@pytest.mark.parametrize("uri", ["api://own", "api://none", "db://none/schema", "file:///etc/passwd"])
def test_observing_invents_no_resource_and_opens_no_reserved_address(uri: str) -> None:
    policy = policy_of("{r: {tools: {allow: []}}}", ALL_KINDS + "enforcement: observe\n")
    assert ask(policy, "resource", uri=uri).effect == "deny"


@pytest.mark.parametrize(
    ("rules", "effect", "rule", "would_deny"),
    [
        ("allow: [{path: '/workspace/**', ops: [read]}]", "allow", "allow[0]", False),
        ("allow: [{path: '/workspace/b', ops: [read]}]", "deny", "default", False),
        (
            "allow: [{path: '/workspace/**', ops: [read]}], deny: [{path: '**/a', ops: [read]}]",
            "deny",
            "deny[0]",
            False,
        ),
        (
            f"{ANY}, deny: [{{path: '**/a', ops: [read], observe: true}}]",
            "allow",
            "deny[0]",
            True,
        ),
        ("allow: [{path: '/workspace/**', ops: [read], observe: true}]", "allow", "allow[0]", True),
        ("allow: [{path: '/workspace/**', ops: [read], effect: ask}]", "ask", "allow[0]", False),
    ],
)
def test_a_file_that_a_run_has_left_is_read_by_the_rules_for_its_path(
    rules: str, effect: str, rule: str, would_deny: bool
) -> None:
    policy = policy_of(f"{{r: {{tools: {{allow: [filesystem]}}, files: {{{rules}}}}}}}")
    decision = ask(policy, "resource", uri=f"{FILE}?offset=1")
    assert (decision.effect, decision.would_deny) == (effect, would_deny)
    assert decision.rule == (rule if rule == "default" else f"roles.r.files.{rule}")
