"""Who may call what, as a client sees it: the list, the denial, the record."""

from __future__ import annotations

import json
from pathlib import Path

import mcp_types as types
import pytest

from sandbox_server.errors import ConfigError
from tests.enforcement.place import call, place, refusal, unread

pytestmark = pytest.mark.anyio

TWO_ROLES = """
principals:
  - match: {any: authenticated}
    roles: [basic]
  - match: {claims: {groups: [analysts]}}
    roles: [analyst]
roles:
  basic:
    tools: {allow: [code_execution]}
    code: {languages: {bash: {image: shell}}}
  analyst:
    inherits: [basic]
    tools: {allow: [filesystem, web_api]}
    code: {languages: {python: {}}}
    files:
      allow: [{path: "/workspace/**", ops: [read, write, list, delete]}]
      deny: [{path: "/workspace/private/**", ops: [read, list, write, delete]}]
    web: {allow: [{id: docs, hosts: [docs.example.org]}]}
deployment: {warm: 0}
"""
BASIC = {"sub": "b", "iss": "https://idp.example.com"}
ANALYST = {**BASIC, "sub": "a", "groups": ["analysts"]}


async def test_a_principal_sees_only_what_it_may_call_languages_included(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, TWO_ROLES, claims=BASIC) as here, here.client(era) as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "code_execution"
        language = tool.input_schema["properties"]["language"]
        assert language["enum"] == ["bash"]
        assert "default" not in language, "python is not granted, so nobody is led to take it"
        assert "language" in tool.input_schema["required"]


async def test_another_role_sees_more(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, TWO_ROLES, claims=ANALYST) as here, here.client(era) as client:
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == ["code_execution", "filesystem", "web_api"]
        language = listed.tools[0].input_schema["properties"]["language"]
        assert sorted(language["enum"]) == ["bash", "python"]
        if era != "legacy":
            assert listed.cache_scope == "private"


async def test_who_has_no_role_sees_and_gets_nothing(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, TWO_ROLES) as here, here.client(era) as client:
        assert (await client.list_tools()).tools == []
        refused = await refusal(client, "code_execution", code="out hi")
        assert (refused["code"], refused["reason"]) == ("policy_denied", "principal.no_role")
        assert here.engine.started == []


async def test_a_denial_names_the_rule_and_what_would_have_been_allowed(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, TWO_ROLES, claims=ANALYST) as here, here.client(era) as client:
        refused = await refusal(client, "web_api", method="GET", url="https://doc.example.org/")
    assert refused["code"] == "policy_denied"
    assert refused["rule"] == "default"
    assert refused["reason"] == "web.no_rule"
    assert "docs.example.org" in refused["hint"]


async def test_a_tool_that_is_not_shown_can_not_be_called(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, TWO_ROLES, claims=BASIC) as here, here.client(era) as client:
        refused = await refusal(client, "filesystem", operation="list")
        assert refused["reason"] == "tool.not_granted"
        assert here.engine.started == []


async def test_every_decision_and_its_outcome_are_on_record(tmp_path: Path) -> None:
    async with place(tmp_path, TWO_ROLES, claims=ANALYST) as here, here.client() as client:
        await call(client, "code_execution", code="out hi", language="python")
        await refusal(client, "code_execution", code="out hi", language="javascript")
        decisions, outcomes = await here.record(), await here.record("outcome")
    assert [(each["decision"], each["reason"]) for each in decisions] == [
        ("allow", "allowed"),
        ("deny", "code.language"),
    ]
    assert decisions[0]["principal"] == {
        "iss": "https://idp.example.com",
        "sub": "a",
        "client_id": None,
        "authenticated": True,
        "claims": {"groups": ["analysts"]},
    }
    assert decisions[0]["revision"] == here.enforced.policy.revision
    assert "out hi" not in json.dumps(decisions)
    assert [each["outcome"] for each in outcomes] == ["ok", "policy_denied"]
    assert [each["decision_id"] for each in outcomes] == [each["decision_id"] for each in decisions]


async def test_what_can_not_be_recorded_is_not_done(tmp_path: Path) -> None:
    async with place(tmp_path, TWO_ROLES, claims=ANALYST) as here, here.client() as client:
        await call(client, "code_execution", code="out hi", language="python")
        ran = len(here.engine.started)
        directory = here.settings.state_dir / "decisions" / "0"
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()
        directory.write_text("in the way")
        refused = await refusal(client, "code_execution", code="out hi", language="bash")
    assert refused["code"] == "audit_unavailable"
    assert len(here.engine.started) == ran


async def test_a_policy_that_only_observes_lets_through_and_says_what_it_would_deny(tmp_path: Path) -> None:
    observing = f"enforcement: observe\n{TWO_ROLES}"
    async with place(tmp_path, observing, claims=BASIC) as here, here.client() as client:
        await call(client, "filesystem", operation="write", path="a.txt", content="x")
        (decision,) = await here.record()
    assert (decision["decision"], decision["would_deny"]) == ("allow", True)


async def test_a_file_that_the_policy_only_observes_is_read_as_a_resource_too(
    tmp_path: Path, era: str
) -> None:
    denies = "deny: [{path: '**/a.txt', ops: [read]}]"
    closed = TWO_ROLES.replace(
        'deny: [{path: "/workspace/private/**", ops: [read, list, write, delete]}]', denies
    )
    for policy, would_deny in (
        (closed, None),
        (closed.replace("ops: [read]}]", "ops: [read], observe: true}]"), True),
        (f"enforcement: observe\n{closed}", True),
    ):
        async with place(tmp_path, policy, claims=ANALYST) as here, here.client(era) as client:
            made = await call(client, "filesystem", operation="write", path="a.txt", content="x")
            uri = f"sandbox://{made['session']['id']}/a.txt"
            if would_deny is None:
                assert "files.deny[0]" in await unread(client, uri)
            else:
                (content,) = (await client.read_resource(uri)).contents
                assert isinstance(content, types.TextResourceContents)
                assert content.text == "x"
            *_, decision = await here.record()
        assert decision["decision"] == ("allow" if would_deny else "deny")
        assert decision["would_deny"] is bool(would_deny)


async def test_policy_me_says_what_the_caller_may_do_and_no_secret(tmp_path: Path, era: str) -> None:
    secret = TWO_ROLES.replace(
        "hosts: [docs.example.org]", "hosts: [docs.example.org], inject: {Authorization: secret://docs_token}"
    )
    (tmp_path / "secrets").mkdir()
    token = tmp_path / "secrets" / "docs_token"
    token.write_text("hunter2-hunter2")
    token.chmod(0o600)
    async with place(tmp_path, secret, claims=ANALYST) as here, here.client(era) as client:
        assert "policy://me" in [each.uri for each in (await client.list_resources()).resources]
        (content,) = (await client.read_resource("policy://me")).contents
        assert isinstance(content, types.TextResourceContents)
        told = json.loads(content.text)
        assert "no such resource" in await unread(client, "policy://you")
    assert told["tools"] == ["code_execution", "filesystem", "web_api"]
    assert sorted(told["languages"]) == ["bash", "python"]
    assert told["web"]["allow"][0]["hosts"] == ["docs.example.org"]
    assert "hunter2" not in content.text
    assert "docs_token" not in content.text


async def test_a_secret_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    secret = TWO_ROLES.replace(
        "hosts: [docs.example.org]", "hosts: [docs.example.org], inject: {Authorization: secret://docs_token}"
    )
    with pytest.raises(ConfigError, match="docs_token"):
        async with place(tmp_path, secret):
            pass


async def test_a_policy_whose_own_tests_fail_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "policy.test.yaml").write_text(
        "- name: everybody may do everything\n"
        "  request: {tool: code_execution, args: {language: bash}}\n"
        "  expect: {decision: allow}\n"
    )
    with pytest.raises(ConfigError, match="everybody may do everything"):
        async with place(tmp_path, f"tests: [policy.test.yaml]\n{TWO_ROLES}"):
            pass
