"""What a change of a policy gives and takes, does to recorded calls, and what a log would teach it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.audit.masking import AuditRules, Masking
from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.diff import diff, replay
from sandbox_server.policy.engine import decide
from sandbox_server.policy.learning import Lesson, learn, merged
from sandbox_server.policy.loader import gather, parse_policy, policy_of
from sandbox_server.policy.models import Policy
from sandbox_server.policy.records import decision_record, recorded

HEAD = """
schema: sandbox-policy/v1
principals:
  - {match: {sub: ann}, roles: [analyst]}
roles:
  analyst:
"""
OLD = (
    HEAD
    + """
    tools: {allow: [web_api, code_execution]}
    code: {languages: {python: {}}, defaults: {wall: 10s}}
    web:
      allow: [{hosts: [api.github.com], paths: ["/repos/**"]}]
      deny: [{hosts: [api.github.com], paths: ["/repos/secret/**"]}]
"""
)
ANN = Principal("ann", authenticated=True)


def loaded(text: str) -> Policy:
    return parse_policy(text.encode(), source="p.yaml")


def line(policy: Policy, request: Request, who: Principal = ANN, **rules: Any) -> dict[str, object]:
    """What the log would hold of a call."""
    record = decision_record(who, request, decide(policy, who, request))
    return {"kind": "decision", **Masking(AuditRules(**rules)).clean(record)}


def get(url: str, method: str = "GET") -> Request:
    return Request("web_api", {"method": method, "url": url})


def test_a_policy_does_not_differ_from_itself() -> None:
    assert diff(loaded(OLD), loaded("# a comment\n" + OLD)).empty


def test_what_only_a_restart_puts_in_force_is_said_to_wait() -> None:
    found = diff(loaded(OLD), loaded(OLD + "deployment: {sandboxes: 4, queue_wait: 5s, memory: 2GiB}\n"))
    assert found.whole == (
        "deployment.sandboxes: 16 -> 4 (from the next start on)",
        "deployment.memory: 8GiB -> 2GiB (from the next start on)",
        "deployment.queue_wait: 30s -> 5s (from the next start on)",
    )
    assert not found.roles


def test_what_a_role_gains_and_loses_is_said_in_words() -> None:
    new = (
        OLD.replace("/repos/**", "/users/**")
        .replace("wall: 10s", "wall: 30s")
        .replace("python: {}", "bash: {}")
    )
    found = diff(loaded(OLD), loaded(new)).roles["analyst"]
    assert found.gains == (
        "language bash",
        "web GET https://api.github.com/users/**",
        "web HEAD https://api.github.com/users/**",
    )
    assert found.loses == (
        "language python",
        "web GET https://api.github.com/repos/**",
        "web HEAD https://api.github.com/repos/**",
    )
    wall = diff(loaded(OLD), loaded(OLD.replace("wall: 10s", "wall: 30s"))).roles["analyst"]
    assert wall.changes == ("python.wall: 10s -> 30s",)


def test_a_deny_that_is_gone_shows_as_one_and_so_does_who_has_a_role() -> None:
    new = OLD.replace("secret", "private").replace("sub: ann", "any: authenticated")
    found = diff(loaded(OLD), loaded(new))
    assert "NOT: web any method api.github.com/repos/secret/**" in found.roles["analyst"].loses
    assert found.whole == (
        "principals: gone: sub=ann: analyst",
        "principals: new: any=authenticated: analyst",
    )


def test_replay_names_the_recorded_calls_that_would_be_answered_otherwise() -> None:
    old, new = loaded(OLD), loaded(OLD.replace("/repos/**", "/users/**"))
    calls = [
        get("https://api.github.com/repos/a"),
        get("https://api.github.com/repos/a"),
        get("https://x.example.org/"),
    ]
    found = replay(old, new, [line(old, call) for call in calls])
    assert (found.calls, found.unread) == (3, 0)
    (changed,) = found.changed
    assert (changed.principal, changed.before, changed.after, changed.count) == ("ann", "allow", "deny", 2)
    assert changed.resource == "https://api.github.com/repos/a"


def test_code_that_was_logged_as_a_hash_can_be_replayed_and_sql_can_not() -> None:
    old = loaded(OLD)
    code = line(old, Request("code_execution", {"language": "python", "code": "print(1)"}))
    statement = line(old, Request("database", {"database": "w", "query": "select 1"}))
    found = replay(old, loaded(OLD.replace("python: {}", "bash: {}")), [code, statement])
    assert [each.tool for each in found.changed] == ["code_execution"]
    assert found.unread == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), json_values))
def test_no_line_makes_reading_it_back_fail(entry: dict[str, Any]) -> None:
    for told in (entry, {"principal": entry, "tool": "x", "args": entry}):
        found = recorded(told)
        assert found is None or isinstance(found[1], Request)


def lesson(text: str, *calls: Request, who: Principal = ANN) -> Lesson:
    document = gather(text.encode(), source="p.yaml")
    policy = policy_of(document, source="p.yaml")
    return learn(policy, document, [line(policy, call, who, sql="text") for call in calls])


def test_nothing_is_learned_from_calls_that_were_allowed() -> None:
    found = lesson(OLD, get("https://api.github.com/repos/a"))
    assert found.addition == {}
    assert found.allowed == 0


def test_the_smallest_addition_is_exact_and_with_it_the_call_is_allowed() -> None:
    calls = (
        get("https://x.example.org/a/1?q=1"),
        get("https://x.example.org/b"),
        get("https://api.github.com/users"),
    )
    found = lesson(OLD, *calls)
    assert found.allowed == 3
    assert found.addition == {
        "roles": {
            "analyst": {
                "web": {
                    "allow": (
                        {"hosts": ("x.example.org",), "methods": ("GET",), "paths": ("/a/1", "/b")},
                        {"hosts": ("api.github.com",), "methods": ("GET",), "paths": ("/users",)},
                    )
                }
            }
        }
    }
    assert "hosts:\n        - x.example.org" in found.yaml()
    document = gather(OLD.encode(), source="p.yaml")
    taught = policy_of(document, source="p.yaml").with_file(
        type(loaded(OLD).file).model_validate(merged(document.data, found.addition))  # type: ignore[arg-type]
    )
    assert [decide(taught, ANN, call).effect for call in calls] == ["allow"] * 3
    for nearby in ("https://y.example.org/b", "https://x.example.org/c", "https://api.github.com/users/a"):
        assert decide(taught, ANN, get(nearby)).effect == "deny"


def test_a_call_that_needs_the_tool_and_the_rule_gets_both() -> None:
    text = HEAD + "    tools: {allow: [code_execution]}\n    code: {languages: {python: {}}}\n"
    found = lesson(text, get("https://x.example.org/"), Request("code_execution", {"language": "bash"}))
    role = found.addition["roles"]["analyst"]
    assert role["tools"] == {"allow": ("web_api",)}
    assert role["code"] == {"languages": {"bash": {}}}
    assert found.allowed == 2


def test_what_was_only_observed_is_learned_too() -> None:
    found = lesson("enforcement: observe" + OLD, get("https://x.example.org/"))
    assert found.addition["roles"]["analyst"]["web"]["allow"][0]["hosts"] == ("x.example.org",)


@pytest.mark.parametrize(
    "call",
    [
        get("https://api.github.com/repos/secret/a"),
        get("http://169.254.169.254/latest/meta-data/"),
        get("https://user:pw@x.example.org/"),
        Request("nonsense", {}),
        Request("code_execution", {"language": "cobol"}),
    ],
)
def test_what_a_rule_or_the_floor_denies_is_left_with_its_reason(call: Request) -> None:
    found = lesson(OLD, call)
    assert found.addition == {}
    assert [left.tool for left in found.left] == [call.tool]


def test_a_caller_without_a_role_is_given_none() -> None:
    found = lesson(OLD, get("https://x.example.org/"), who=Principal("bob", authenticated=True))
    assert found.addition == {}
    assert "caller" in found.left[0].why


def test_files_of_a_simple_policy_keep_their_built_in_rules() -> None:
    text = "schema: sandbox-policy/v1\nroles:\n  basic:\n    code: {languages: {python: {}}}\n"
    found = lesson(text, Request("filesystem", {"operation": "write", "path": "/tmp/x"}), who=Principal())
    paths = [rule["path"] for rule in found.addition["roles"]["basic"]["files"]["allow"]]
    assert paths == ["/workspace/**", "/tmp/**", "/tmp/x"]


DATABASE = (
    HEAD
    + """
    tools: {allow: [database]}
    databases:
      w:
        dsn: "secret://w"
        dialect: postgres
        relations: {allow: [sales.orders]}
        functions: {allow: [count]}
"""
)


def query(sql: str, operation: str = "select") -> Request:
    return Request("database", {"database": "w", "operation": operation, "query": sql})


def test_relations_are_learned_and_writing_and_dangerous_functions_are_not() -> None:
    found = lesson(
        DATABASE,
        query("select lower(name) from sales.items join sales.units on true"),
        query("delete from sales.orders where id = 1", "delete"),
        query("select pg_read_file('/etc/passwd')"),
    )
    assert found.addition == {
        "roles": {
            "analyst": {
                "databases": {
                    "w": {
                        "relations": {"allow": ("sales.items", "sales.units")},
                        "functions": {"allow": ("lower",)},
                    }
                }
            }
        }
    }
    assert len(found.left) == 2
