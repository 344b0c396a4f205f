"""The worked example of the schema loads as it stands and means what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from sandbox_server.engines.profile import MIB
from sandbox_server.guards.web import WebGrant
from sandbox_server.policy.decision import Json, Principal, Request
from sandbox_server.policy.dump import dump
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.engine import decide, effective, visible_tools
from sandbox_server.policy.grants import CodeGrant, StatementGrant
from sandbox_server.policy.loader import load_policy, parse_policy
from sandbox_server.policy.models import Policy
from tests.policy.support import ANYBODY, FIXTURES, ask, person

ANALYST = person("ana", groups=("analysts", "staff"))
CI = person("ci-bot")
SOMEBODY = person("x", iss="https://other.example.com")
CASES = yaml.safe_load((FIXTURES / "policy.test.yaml").read_text())


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(FIXTURES / "worked_example.yaml")


def rights(policy: Policy, who: Principal) -> Effective:
    return effective(policy, who)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_its_own_test_cases_hold(policy: Policy, case: dict[str, dict[str, Json]]) -> None:
    said = case["principal"]
    claims = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in dict(said.get("claims") or {}).items()  # type: ignore[call-overload]
    }
    who = Principal(sub=str(said.get("sub", "t")), iss=str(said["iss"]), claims=claims, authenticated=True)
    request = Request(str(case["request"]["tool"]), case["request"]["args"])  # type: ignore[arg-type]
    decision = decide(policy, who, request)
    expected = case["expect"]
    assert decision.effect == expected["decision"]
    assert decision.rule == expected.get("rule", decision.rule)
    assert decision.reason == expected.get("reason", decision.reason)


def test_each_principal_gets_the_roles_of_all_rules_that_match(policy: Policy) -> None:
    assert rights(policy, ANALYST).roles == ("analyst", "basic")
    assert rights(policy, CI).roles == ("ci", "basic")
    assert rights(policy, SOMEBODY).roles == ("basic",)
    assert rights(policy, replace(CI, iss="https://other.example.com")).roles == ("basic",)
    assert rights(policy, ANYBODY).roles == ()


def test_who_matches_nothing_gets_nothing(policy: Policy) -> None:
    decision = ask(policy, "code_execution", code="1")
    assert (decision.effect, decision.reason) == ("deny", "principal.no_role")
    assert visible_tools(rights(policy, ANYBODY)) == ()
    assert policy.grants == {}


def test_each_role_sees_the_tools_that_it_is_granted(policy: Policy) -> None:
    assert visible_tools(rights(policy, ANALYST)) == ("code_execution", "filesystem", "web_api", "database")
    assert visible_tools(rights(policy, SOMEBODY)) == ("code_execution", "filesystem")
    decision = ask(policy, "web_api", SOMEBODY, method="GET", url="https://api.github.com/repos/acme/x")
    assert (decision.effect, decision.reason) == ("deny", "tool.not_granted")
    assert "code_execution, filesystem" in decision.nearest


def test_languages_have_their_own_limits_over_the_defaults(policy: Policy) -> None:
    basic = rights(policy, SOMEBODY).languages
    assert list(basic) == ["python", "javascript", "bash"]
    assert {name: each.grant.profile.image for name, each in basic.items()} == {
        "python": "python", "javascript": "node", "bash": "shell",
    }  # fmt: skip
    assert basic["javascript"].limits["memory"].value == 384 * MIB
    assert basic["javascript"].limits["memory"].source == "roles.basic.code.languages.javascript.memory"
    assert basic["python"].limits["memory"].source == "roles.basic.code.defaults.memory"
    assert basic["bash"].grant.defaults.cpu == 5
    assert basic["python"].grant.defaults.wall == 10
    assert basic["python"].files_out == 20


def test_a_role_adds_to_what_it_inherits_and_the_most_permissive_number_holds(policy: Policy) -> None:
    ci = rights(policy, CI).languages
    assert ci["python"].limits["wall"].value == 60
    assert ci["python"].limits["wall"].source == "roles.ci.code.defaults.wall"
    assert ci["javascript"].limits["memory"].value == 1024 * MIB
    assert ci["python"].limits["workspace"].source == "roles.basic.code.defaults.workspace"
    assert ci["python"].limits["tmp"].source == "built_in.tmp"


def test_the_strictest_runtime_holds(policy: Policy) -> None:
    assert {each.grant.profile.runtime for each in rights(policy, ANALYST).languages.values()} == {"runsc"}
    assert {each.grant.profile.runtime for each in rights(policy, CI).languages.values()} == {"runc"}


def test_quotas_are_the_most_permissive_and_say_where_they_are_from(policy: Policy) -> None:
    analyst = rights(policy, ANALYST).quotas
    assert (analyst["runs"].value, analyst["runs"].per) == (120, 60)
    assert analyst["runs"].source == "roles.analyst.quotas.runs"
    assert (analyst["burst"].value, analyst["burst"].source) == (10, "roles.basic.quotas.burst")
    assert (analyst["cpu_seconds"].value, analyst["cpu_seconds"].per) == (1800, 86400)
    assert rights(policy, SOMEBODY).quotas["concurrent"].value == 2


@pytest.mark.parametrize(
    ("method", "url", "effect", "reason", "nearest"),
    [
        ("GET", "https://api.github.com/repos/acme/x/issues", "allow", "allowed", ""),
        ("POST", "https://api.github.com/repos/acme/x", "deny", "web.method", "GET"),
        ("GET", "https://api.github.com/repos/other/x", "deny", "web.path", "/repos/acme/**"),
        ("GET", "http://api.github.com/repos/acme/x", "deny", "web.scheme", "https://"),
        ("GET", "https://api.github.com:8443/repos/acme/x", "deny", "web.port", "port 443"),
        ("GET", "https://api.githb.com/repos/acme/x", "deny", "web.no_rule",
         "api.github.com"),
        ("HEAD", "https://requests.readthedocs.io/en/latest", "allow", "allowed", ""),
        ("GET", "https://readthedocs.io/", "deny", "web.no_rule", "*.readthedocs.io"),
        ("GET", "https://a.internal.readthedocs.io/", "deny", "web.denied", ""),
        ("GET", "https://evil.example/?https://api.github.com/repos/acme/x", "deny", "web.no_rule",
         "api.github.com"),
        ("GET", "https://api.github.com@evil.example/", "deny", "url.userinfo", ""),
        ("GET", "http://169.254.169.254/latest/meta-data", "deny", "metadata_address", ""),
    ],
)  # fmt: skip
def test_web_requests_are_judged_by_host_method_and_path(
    policy: Policy, method: str, url: str, effect: str, reason: str, nearest: str
) -> None:
    decision = ask(policy, "web_api", ANALYST, method=method, url=url)
    assert (decision.effect, decision.reason) == (effect, reason)
    assert nearest in decision.nearest
    assert (decision.grant is None) == (effect == "deny")


def test_a_web_request_gets_its_secret_by_name_and_its_limits_with_their_sources(policy: Policy) -> None:
    decision = ask(policy, "web_api", ANALYST, method="GET", url="https://api.github.com/repos/acme/x")
    grant = decision.grant
    assert isinstance(grant, WebGrant)
    assert dict(grant.inject) == {"Authorization": "gh_token"}
    assert (grant.limits.total, grant.limits.redirects, grant.limits.body) == (20, 3, 2 * MIB)
    assert decision.limits["total"].source == "roles.analyst.web.limits.total"
    assert decision.limits["connect"].source == "built_in.web.connect"
    assert "gh_token" not in repr(decision)


def test_files_are_the_workspace_but_not_git_hooks(policy: Policy) -> None:
    assert ask(policy, "filesystem", ANALYST, operation="list").effect == "allow"
    assert ask(policy, "filesystem", ANALYST, operation="read", path=".git/hooks/x").effect == "allow"
    denied = ask(
        policy, "filesystem", ANALYST, operation="write", path="a/.git/hooks/pre-commit", content="x"
    )
    assert (denied.effect, denied.rule) == ("deny", "roles.basic.files.deny[0]")
    moved = ask(policy, "filesystem", ANALYST, operation="move", path="x", to="/workspace/.git/hooks/x")
    assert (moved.effect, moved.rule) == ("deny", "roles.basic.files.deny[0]")
    assert ask(policy, "filesystem", ANALYST, operation="read", path="/tmp/x").reason == "files.no_rule"
    large = ask(policy, "filesystem", ANALYST, operation="write", path="x", content="x" * (16 * MIB + 1))
    assert (large.effect, large.rule, large.nearest) == ("deny", "roles.basic.files.max_file", "16MiB")


@pytest.mark.parametrize(
    ("query", "effect", "reason"),
    [
        ("select count(*) from sales.orders", "allow", "allowed"),
        ("select date_trunc('month', day), count(*) from sales.orders group by 1", "allow", "allowed"),
        ("@orders_by_day", "allow", "allowed"),
        ("@orders_by_month", "deny", "sql.query"),
        ("select card_no from sales.orders", "deny", "sql.column"),
        ("select * from sales.secrets", "deny", "sql.relation"),
        ("select * from hr.people", "deny", "sql.relation"),
        ("select pg_sleep(10)", "deny", "sql.function"),
        ("select 1; select 2", "deny", "sql.multiple"),
    ],
)
def test_statements_are_judged_by_relation_column_and_function(
    policy: Policy, query: str, effect: str, reason: str
) -> None:
    decision = ask(policy, "database", ANALYST, database="warehouse", operation="select", query=query)
    assert (decision.effect, decision.reason) == (effect, reason)
    assert isinstance(decision.grant, StatementGrant) == (effect == "allow")


def test_a_read_only_database_takes_no_updates(policy: Policy) -> None:
    decision = ask(
        policy,
        "database",
        ANALYST,
        database="warehouse",
        operation="update",
        query="update sales.orders set a=1",
    )
    assert (decision.effect, decision.reason, decision.nearest) == ("deny", "sql.operation", "select")
    absent = ask(policy, "database", ANALYST, database="warehose", operation="select", query="select 1")
    assert (absent.effect, absent.nearest) == ("deny", "warehouse")


def test_egress_is_the_profile_that_a_role_chooses(policy: Policy) -> None:
    run = ask(policy, "code_execution", ANALYST, code="1", language="python").grant
    assert isinstance(run, CodeGrant)
    assert run.egress == ("packages",)
    out = {"profile": "packages", "scheme": "https"}
    allowed = ask(policy, "egress", ANALYST, host="packages.example.org", port=443, **out)
    assert (allowed.effect, allowed.rule) == ("allow", "egress.profiles.packages.allow[0]")
    assert allowed.limits["bytes_out"].value == 10 * MIB
    assert ask(policy, "egress", ANALYST, host="packages.example.org", port=22, **out).reason == "egress.port"
    assert ask(policy, "egress", SOMEBODY, host="packages.example.org", port=443, **out).effect == "deny"


def test_a_caller_may_ask_for_more_than_the_default_up_to_the_ceiling(policy: Policy) -> None:
    more = ask(policy, "code_execution", SOMEBODY, code="1", timeout=30)
    assert (more.effect, more.limits["wall"].value, more.limits["wall"].source) == (
        "allow", 30, "arguments.timeout",
    )  # fmt: skip
    too_much = ask(policy, "code_execution", SOMEBODY, code="1", timeout=61)
    assert (too_much.effect, too_much.rule, too_much.nearest) == ("deny", "ceilings.wall", "60s")


def test_secrets_are_known_by_name_only(policy: Policy) -> None:
    assert sorted(policy.secrets) == ["gh_token", "warehouse_ro"]


def test_what_is_written_back_loads_to_the_same_policy(policy: Policy) -> None:
    assert parse_policy(dump(policy).encode(), source=policy.source) == policy
