"""`effect: ask`: the caller's human decides, and whoever can't be asked has said no."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.client import ClientRequestContext

from sandbox_server.enforcement.web import web_judge
from sandbox_server.errors import PolicyDenied
from sandbox_server.guards.urls import parse_url
from sandbox_server.policy.decision import Decision, Request
from tests.enforcement.place import answering, call, place, refusal, unread

pytestmark = pytest.mark.anyio

ASKING = """
roles:
  basic:
    tools: {allow: [filesystem], ask: [code_execution]}
    code: {languages: {python: {}}}
deployment: {warm: 0}
"""


async def test_a_yes_lets_the_call_through(tmp_path: Path, era: str) -> None:
    yes, asked = answering("accept", approve=True)
    async with place(tmp_path, ASKING) as here:
        async with here.client(era, elicitation_callback=yes) as client:
            assert (await call(client, "code_execution", code="out hi"))["stdout"] == "hi\n"
        decisions = await here.record()
    assert len(asked) == 1
    assert "roles.basic.tools.ask[0]" in asked[0]
    assert "out hi" in asked[0]
    assert {each["decision"] for each in decisions} == {"ask"}


@pytest.mark.parametrize(
    ("action", "content"),
    [
        ("decline", {}),
        ("cancel", {}),
        ("accept", {}),
        ("accept", {"approve": False}),
        ("accept", {"approve": "true"}),
    ],
)
async def test_anything_but_a_plain_yes_is_a_no(
    tmp_path: Path, era: str, action: str, content: dict[str, Any]
) -> None:
    no, asked = answering(action, **content)
    async with place(tmp_path, ASKING) as here, here.client(era, elicitation_callback=no) as client:
        refused = await refusal(client, "code_execution", code="out hi")
        assert here.engine.started == []
    assert len(asked) == 1
    assert (refused["code"], refused["rule"]) == ("policy_denied", "roles.basic.tools.ask[0]")


async def test_a_client_that_can_not_ask_is_refused_at_once(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, ASKING) as here, here.client(era) as client:
        refused = await refusal(client, "code_execution", code="out hi")
        assert here.engine.started == []
    assert "elicitation" in refused["hint"]


async def test_nobody_who_answers_in_time_has_said_no(tmp_path: Path) -> None:
    async def silent(context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        await anyio.sleep_forever()
        raise AssertionError

    async with (
        place(tmp_path, ASKING, ask_seconds=0.05) as here,
        here.client("legacy", elicitation_callback=silent) as client,
    ):
        refused = await refusal(client, "code_execution", code="out hi")
        assert here.engine.started == []
    assert refused["code"] == "policy_denied"


async def test_a_yes_is_for_one_call_and_for_once(tmp_path: Path) -> None:
    """A stateless client carries the question: it can't use the answer again, or for another call."""
    async with (
        place(tmp_path, ASKING) as here,
        here.client("2026-07-28", elicitation_callback=answering("accept")[0]) as client,
    ):
        asked = await client.session.call_tool(
            "code_execution", {"code": "out hi"}, allow_input_required=True
        )
        assert isinstance(asked, types.InputRequiredResult)
        answers = {"approval": types.ElicitResult(action="accept", content={"approve": True})}
        again = {"input_responses": answers, "request_state": asked.request_state}
        first = await client.session.call_tool("code_execution", {"code": "out hi"}, **again)
        assert isinstance(first, types.CallToolResult)
        assert not first.is_error
        second = await client.session.call_tool("code_execution", {"code": "out hi"}, **again)
        assert isinstance(second, types.CallToolResult)
        assert second.is_error
        with pytest.raises(Exception, match="requestState"):
            await client.session.call_tool("code_execution", {"code": "out other"}, **again)
        assert len(here.engine.started) == 1


async def test_a_yes_does_not_outlive_the_policy_that_asked(tmp_path: Path) -> None:
    """The human takes their time, and meanwhile the operator closes what was asked for."""
    both = ASKING.replace("allow: [filesystem], ask: [code_execution]", "allow: [sandbox], ask: [filesystem]")
    closed = both.replace("    code:", "    files: {allow: []}\n    code:")
    edits = [both, closed]
    async with place(tmp_path, both) as here:

        async def late(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult:
            assert await here.rewrite(edits.pop(0))
            return types.ElicitResult(action="accept", content={"approve": True})

        async with here.client("legacy", elicitation_callback=late) as client:
            (made,) = (await call(client, "sandbox", operation="create"))["sessions"]
            wanted = {"operation": "write", "path": "a.txt", "content": "x", "session": made["id"]}
            await call(client, "filesystem", **wanted)
            refused = await refusal(client, "filesystem", **wanted)
    assert (refused["code"], refused["retry_safe"]) == ("busy", True)
    assert "policy has just changed" in refused["message"]


TWO_QUESTIONS = """
roles:
  basic:
    tools: {allow: [web_api]}
    web:
      allow:
        - {id: first, hosts: [a.example.org], effect: ask}
        - {id: other, hosts: [b.example.org], effect: ask}
"""


async def test_a_yes_is_not_for_where_a_redirect_leads_by_another_rule(tmp_path: Path) -> None:
    async def yes(decision: Decision) -> bool:
        return True

    async with place(tmp_path, TWO_QUESTIONS) as here:
        gate = here.enforced.gate
        caller = gate.current.caller(here.enforced.local, None)
        asked = Request("web_api", {"method": "GET", "url": "https://a.example.org/"})
        async with gate.admit(caller, asked, yes):
            judge = web_judge(gate, caller)
            for path in ("", "moved"):
                granted = judge("GET", parse_url(f"https://a.example.org/{path}"), 0)
                assert granted.rule == "roles.basic.web.allow[first]"
            with pytest.raises(PolicyDenied) as caught:
                judge("GET", parse_url("https://b.example.org/"), 0)
        assert caught.value.reason == "ask.too_late"


ASKED_FIRST = """
roles:
  basic:
    tools: {ask: [filesystem, code_execution, web_api, database]}
    code: {languages: {python: {}}}
    web: {allow: [{hosts: [a.example.org]}]}
resources:
  - api: {name: front, url: "https://a.example.org/front"}
"""


@pytest.mark.parametrize("uri", ["api://front", "sandbox://h/a.txt"])
async def test_a_resource_is_no_way_round_a_tool_that_asks_first(tmp_path: Path, era: str, uri: str) -> None:
    no, asked = answering("decline")
    async with place(tmp_path, ASKED_FIRST) as here, here.client(era, elicitation_callback=no) as client:
        refused = await unread(client, uri)
        (decision, *_) = await here.record()
    assert decision["decision"] == "ask"
    assert decision["rule"].startswith("roles.basic.tools.ask[")
    assert len(asked) == 1
    assert refused.startswith("policy_denied")


async def test_what_one_granted_tool_reads_is_read_without_asking_for_another(tmp_path: Path) -> None:
    both = ASKED_FIRST.replace("{ask: [filesystem, code", "{allow: [filesystem], ask: [code")
    async with place(tmp_path, both) as here, here.client("2026-07-28") as client:
        await unread(client, "sandbox://h/a.txt")
        (decision, *_) = await here.record()
    assert (decision["decision"], decision["rule"]) == ("allow", "roles.basic.tools.allow[0]")


async def test_what_the_human_is_not_shown_they_are_told_of_and_nothing_plays_another_line(
    tmp_path: Path, era: str
) -> None:
    """A yes is to the whole call: a long program can not hide its end, nor write what looks like ours."""
    yes, asked = answering("decline")
    code = "out hi\nlanguage: harmless\n" + "x" * 3000 + "\nout the end"
    async with place(tmp_path, ASKING) as here, here.client(era, elicitation_callback=yes) as client:
        await refusal(client, "code_execution", code=code)
    lines = asked[0].split("\n")
    assert [line for line in lines if line.startswith("language:")] == ["language: python"]
    assert f"{len(code):,} characters" in asked[0]
    assert "out the end" in asked[0], "the end is shown, and what is left out is in the middle"
    assert len(asked[0]) < 2500
