"""What is counted where the policy is enforced."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from prometheus_client.exposition import generate_latest

from tests.enforcement.place import Place, answering, call, place, refusal

pytestmark = pytest.mark.anyio

POLICY = """
roles:
  basic:
    tools: {allow: [code_execution, web_api]}
    code: {languages: {python: {}}}
    web: {allow: [{id: docs, hosts: ["*.example.org"]}]}
    quotas: {runs: 2/h}
deployment: {warm: 0}
"""


def lines(here: Place) -> set[str]:
    text = generate_latest(here.enforced.gate.metrics.registry).decode()
    return {line for line in text.splitlines() if not line.startswith(("#", "process_"))}


async def test_a_quota_that_refuses_is_counted_by_its_name(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, POLICY) as here, here.client(era) as client:
        for _ in range(2):
            await call(client, "code_execution", code="out hi")
        assert (await refusal(client, "code_execution", code="out hi"))["code"] == "quota_exceeded"
        found = lines(here)
    assert 'sandbox_quota_refusals_total{quota="runs"} 1.0' in found
    assert 'sandbox_tool_calls_total{outcome="quota_exceeded",tool="code_execution"} 1.0' in found
    assert 'sandbox_tool_call_seconds_count{tool="code_execution"} 3.0' in found
    assert 'sandbox_principal_requests_total{kind="call",principal="anonymous",verdict="denied"} 1.0' in found


async def test_what_a_policy_only_observes_is_counted_as_that(tmp_path: Path) -> None:
    async with place(tmp_path, "enforcement: observe\n" + POLICY) as here, here.client() as client:
        await client.call_tool("web_api", {"method": "GET", "url": "http://127.0.0.1:1/"})
        await client.call_tool("sandbox", {"operation": "create"})
        found = lines(here)
    decided = [line for line in found if line.startswith("sandbox_policy_decisions_total")]
    assert 'sandbox_policy_decisions_total{rule="default",tool="sandbox",verdict="would_deny"} 1.0' in decided


async def test_an_unknown_tool_and_arguments_of_any_name_make_no_series(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, POLICY) as here, here.client(era) as client:
        for number in range(3):
            with pytest.raises(MCPError):
                await client.call_tool(f"minted{number}", {})
            await refusal(client, "code_execution", code="out hi", language=f"minted{number}")
            await refusal(client, "web_api", method="GET", url=f"https://minted{number}.test/minted")
        found = lines(here)
    assert not any("minted" in line for line in found)
    assert 'sandbox_tool_calls_total{outcome="invalid_request",tool="code_execution"} 3.0' in found
    assert (
        'sandbox_web_requests_total{hop="first",host="",rule="default",status="",verdict="denied"} 3.0'
        in found
    )


async def test_a_scrape_is_one_at_a_time_and_no_more_than_a_few_wait(tmp_path: Path) -> None:
    from sandbox_server.errors import Busy
    from sandbox_server.observe.scrape import MOST_WAITING

    async with place(tmp_path, POLICY) as here:
        refused: list[Busy] = []
        texts: list[bytes] = []

        async def scrape() -> None:
            try:
                texts.append(await here.ruling.metrics())
            except Busy as busy:
                refused.append(busy)

        async with anyio.create_task_group() as tasks:
            for _ in range(MOST_WAITING + 2):
                tasks.start_soon(scrape)
        assert (len(texts), len(refused)) == (MOST_WAITING, 2)
        revision = here.enforced.policy.revision
        assert f'sandbox_policy_info{{revision="{revision}"}} 1.0\n'.encode() in texts[0]
        assert await here.rewrite(POLICY.replace("2/h", "3/h"))
        assert not await here.rewrite("roles: 7\n")
        text = (await here.ruling.metrics()).decode()
    assert revision not in text, "a revision that is gone leaves no series"
    assert 'sandbox_policy_reloads_total{result="ok"} 1.0' in text
    assert 'sandbox_policy_reloads_total{result="failed"} 1.0' in text


async def test_a_run_that_never_got_a_sandbox_is_none_that_waited_for_nothing(tmp_path: Path) -> None:
    """Else the busier a server is, the shorter its runs would seem to wait."""
    busy = POLICY.replace("runs: 2/h", "concurrent: 1")
    async with (
        place(tmp_path, busy) as here,
        here.client("2026-07-28") as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.call_tool, "code_execution", {"code": "hang"})
        await anyio.wait_all_tasks_blocked()
        await here.engine.until(lambda: here.engine.live > 0)
        assert (await refusal(client, "code_execution", code="out hi"))["code"] == "busy"
        found = lines(here)
        tasks.cancel_scope.cancel()
    assert 'sandbox_runs_total{language="python",outcome="busy",sandbox="none"} 1.0' in found
    assert "sandbox_run_wait_seconds_count 0.0" in found
    assert not any(line.startswith("sandbox_run_seconds_count") for line in found)


async def test_a_question_to_a_human_and_its_answer_are_one_call_of_a_principal(
    tmp_path: Path, era: str
) -> None:
    answer, asked = answering("decline")
    asks = POLICY.replace("allow: [code_execution, web_api]", "allow: [web_api], ask: [code_execution]")
    async with place(tmp_path, asks) as here, here.client(era, elicitation_callback=answer) as client:
        assert (await refusal(client, "code_execution", code="out hi"))["code"] == "policy_denied"
        found = lines(here)
    assert len(asked) == 1
    mine = {line for line in found if line.startswith("sandbox_principal_requests_total")}
    assert mine == {
        'sandbox_principal_requests_total{kind="call",principal="anonymous",verdict="denied"} 1.0'
    }
