"""What the lint finds, where, and what it leaves alone."""

from __future__ import annotations

import time

import pytest

from sandbox_server.policy.lint import lint
from sandbox_server.policy.loader import gather, policy_of

CODE = "    code: {languages: {python: {}}}\n"
HEAD = "schema: sandbox-policy/v1\ntests: [policy.test.yaml]\n"
PRINCIPALS = "principals:\n  - {match: {any: authenticated}, roles: [basic]}\n"
WEB = HEAD + PRINCIPALS + "roles:\n  basic:\n    tools: {allow: [web_api]}\n"


def found(text: str) -> list[tuple[str, int]]:
    """Ids with their lines."""
    document = gather(text.encode(), source="p.yaml")
    policy = policy_of(document, source="p.yaml")
    return [(each.id, document.mark(each.path, key=each.at_key).line) for each in lint(policy.file)]


def test_a_policy_that_says_what_it_means_has_no_findings() -> None:
    assert found(HEAD + "roles:\n  basic:\n" + CODE) == []
    rules = "    web: {allow: [{hosts: [api.github.com], paths: ['/repos/acme/**']}]}\n"
    assert found(WEB + rules) == []


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("allow: [{hosts: [a.example.org]}]\n      deny: [{hosts: ['*.example.org']}]", ("shadowed-rule", 9)),
        ("allow: [{hosts: ['*.example.org']}, {hosts: [a.example.org]}]", ("shadowed-rule", 9)),
        ("allow: [{hosts: [a.example.org]}]\n      deny: [{hosts: [b.example.org]}]", ("needless-deny", 10)),
        ("allow: [{hosts: [a.example.org], schemes: [http]}]", ("plain-http", 9)),
        ("allow: [{hosts: ['*.example.org'], methods: [POST]}]", ("too-broad", 9)),
        ("allow: [{hosts: [a.example.org], addresses: ['10.0.0.0/8']}]", ("too-broad", 9)),
        ("allow: [{hosts: [a.example.org], observe: true}]", ("observe-on", 9)),
        ("allow: [{hosts: []}]", ("dead-rule", 9)),
    ],
)
def test_rules_for_the_web_that_are_dead_or_too_broad(rules: str, expected: tuple[str, int]) -> None:
    assert found(f"{WEB}    web:\n      {rules}\n") == [expected]


@pytest.mark.parametrize(
    "rules",
    [
        "allow: [{hosts: ['*.example.org']}]\n      deny: [{hosts: [a.example.org]}]",
        "allow: [{hosts: [a.example.org]}]\n      deny: [{hosts: [a.example.org], paths: ['/admin/**']}]",
        "allow: [{hosts: [a.example.org]}]\n      deny: [{hosts: [a.example.org], methods: [HEAD]}]",
        "allow: [{hosts: [a.example.org], methods: [GET]}, {hosts: [a.example.org], methods: [POST]}]",
        "allow: [{hosts: ['a.example.org:8443']}]\n      deny: [{hosts: [a.example.org], ports: [443]},"
        " {hosts: ['*.example.org'], observe: true}]",
    ],
)
def test_rules_that_narrow_each_other_are_no_findings(rules: str) -> None:
    assert [each for each in found(f"{WEB}    web:\n      {rules}\n") if each[0] == "shadowed-rule"] == []


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("tools: {allow: [database]}\n    web: {allow: [{hosts: [a.example.org]}]}", ("dead-rule", 8)),
        ("tools: {allow: [web_api], deny: [web_api]}", ("dead-rule", 7)),
        ("tools: {allow: [web_api], ask: [web_api]}", ("ask-and-allow", 7)),
        (
            "tools: {allow: [filesystem]}\n    files: {allow: [{path: '/workspace/a/**', ops: [read]}],"
            " deny: [{path: '/workspace/**'}]}",
            ("shadowed-rule", 8),
        ),
        (
            "tools: {allow: [filesystem]}\n    files: {allow: [{path: '/proc/**', ops: [read]}]}",
            ("floor-path", 8),
        ),
        ("tools: {allow: [filesystem]}\n    files: {allow: [{path: '/**', ops: [read]}]}", ("floor-path", 8)),
    ],
)
def test_roles_with_rules_to_no_effect(role: str, expected: tuple[str, int]) -> None:
    assert found(f"{HEAD}{PRINCIPALS}roles:\n  basic:\n    {role}\n") == [expected]


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ("relations: {allow: ['*.*']}", "too-broad"),
        ("relations: {allow: [sales.orders], deny: ['sales.*']}", "shadowed-rule"),
        ("relations: {allow: [sales.orders], deny: ['hr.*']}", "needless-deny"),
        ("relations: {allow: [sales.orders]}, functions: {allow: [sum], deny: [sum]}", "dead-rule"),
        ("mode: read", "dead-rule"),
    ],
)
def test_databases_that_are_too_open_or_closed(database: str, expected: str) -> None:
    text = f"databases:\n      w: {{dsn: 'secret://w', dialect: postgres, {database}}}\n"
    role = f"{HEAD}{PRINCIPALS}roles:\n  basic:\n    tools: {{allow: [database]}}\n    {text}"
    assert found(role) == [(expected, 9)]


def test_what_holds_for_the_whole_policy() -> None:
    text = "schema: sandbox-policy/v1\nenforcement: observe\naudit: {log: none, on_failure: continue}\n"
    ids = [each[0] for each in found(text + "roles:\n  basic:\n" + CODE)]
    assert sorted(ids) == ["audit-off", "audit-off", "no-tests", "observe-on"]


def test_a_role_that_nobody_gets_is_found_and_one_that_is_inherited_is_not() -> None:
    roles = f"roles:\n  base:\n{CODE}  basic: {{inherits: [base]}}\n  lost:\n{CODE}"
    text = HEAD + PRINCIPALS + roles
    assert [each for each in found(text) if each[0] == "unreachable-role"] == [("unreachable-role", 9)]


def test_a_limit_that_a_more_generous_role_outweighs_is_found_where_it_is_written() -> None:
    roles = "roles:\n  basic:\n    tools: {allow: [code_execution]}\n"
    roles += "    code: {runtime: runsc, defaults: {wall: 30s}, languages: {python: {}}}\n"
    roles += "    quotas: {runs: 60/min}\n"
    roles += "  ci:\n    inherits: [basic]\n    code:\n      runtime: runc\n      defaults: {wall: 10s}\n"
    roles += "    quotas: {runs: 1/s}\n"
    principals = PRINCIPALS + "  - {match: {sub: bot}, roles: [ci]}\n"
    assert found(HEAD + principals + roles) == [("outweighed", 15), ("outweighed", 14)]


def test_everyone_gets_the_outside_world_only_with_a_warning() -> None:
    text = WEB.replace("authenticated", "everyone") + "    web: {allow: [{hosts: [a.example.org]}]}\n"
    assert found(text) == [("too-broad", 4)]


def test_egress_without_a_port_and_a_profile_without_a_role() -> None:
    profile = "egress:\n  profiles:\n    p: {allow: [a.example.org, 'b.example.org:80']}\n"
    text = f"{HEAD}roles:\n  basic:\n{CODE}{profile}"
    assert sorted(found(text)) == [("no-port", 8), ("plain-http", 8), ("unused-profile", 8)]


def test_a_way_out_without_a_byte_is_found_and_one_with_bytes_is_not() -> None:
    roles = "roles:\n  basic:\n    tools: {allow: [code_execution]}\n"
    roles += "    code: {languages: {python: {}}}\n    quotas: {egress_bytes: 0/day}\n"
    roles += "  out:\n    inherits: [basic]\n    code: {egress: p}\n"
    principals = PRINCIPALS + "  - {match: {sub: bot}, roles: [out]}\n"
    profile = "egress: {profiles: {p: {allow: ['a.example.org:443']}}}\n"
    assert found(HEAD + principals + roles + profile) == [("egress-without-bytes", 13)]
    enough = roles + "    quotas: {egress_bytes: 1MiB/day}\n"
    assert found(HEAD + principals + enough + profile) == []
    unlimited = roles.replace("    quotas: {egress_bytes: 0/day}\n", "")
    assert found(HEAD + principals + unlimited + profile) == []


def test_roles_of_which_nothing_waits_warm_are_noted() -> None:
    roles = "".join(
        f"  r{n}:\n    tools: {{allow: [code_execution]}}\n"
        f"    code: {{defaults: {{pids: {60 + n}}}, languages: {{python: {{}}, bash: {{}}}}}}\n"
        for n in range(3)
    )
    principals = (
        "principals: [" + ", ".join(f"{{match: {{sub: s{n}}}, roles: [r{n}]}}" for n in range(3)) + "]\n"
    )
    text = HEAD + principals + "roles:\n" + roles + "deployment:\n  warm: 2\n  sandboxes: PLACES\n"
    # Python and bash have images of their own: six kinds, two of each.
    assert found(text.replace("PLACES", "24")) == []
    assert found(text.replace("PLACES", "23")) == [("cold-roles", 16)]
    assert found(text.replace("PLACES", "1").replace("warm: 2", "warm: 0")) == []


def test_a_filter_that_gvisor_does_not_take_is_noted() -> None:
    roles = "roles:\n  basic:\n    tools: {allow: [code_execution]}\n"
    roles += "    code: {runtime: runsc, seccomp: strict, languages: {python: {}}}\n"
    assert found(HEAD + PRINCIPALS + roles) == [("unused-filter", 8)]
    assert found(HEAD + PRINCIPALS + roles.replace("runsc", "runc")) == []


@pytest.mark.parametrize("hosts", ["h{n}.example.org", "same.example.org"])
def test_ten_thousand_rules_take_less_than_two_seconds(hosts: str) -> None:
    rules = "".join(
        f'        - {{hosts: ["{hosts.format(n=n)}"], paths: ["/p{n}/**"]}}\n' for n in range(10_000)
    )
    denies = "".join(f"        - {{hosts: [d{n}.example.org]}}\n" for n in range(200))
    text = f"{WEB}    web:\n      allow:\n{rules}      deny:\n{denies}"
    started = time.process_time()
    ids = {each[0] for each in found(text)}
    assert time.process_time() - started < 2
    assert ids == {"needless-deny"}
