"""What a caller may use up, and what it is told when it has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.enforcement.quotas import Quotas
from sandbox_server.errors import Busy, QuotaExceeded
from sandbox_server.policy.decision import Decision, Limit, Request
from sandbox_server.security.limits import NANO, Buckets
from tests.enforcement.place import call, place, refusal

pytestmark = pytest.mark.anyio


def policy(quotas: str) -> str:
    return f"""
roles:
  basic:
    tools: {{allow: [code_execution, filesystem, sandbox]}}
    code: {{defaults: {{cpu: 10s, wall: 10s}}, languages: {{python: {{}}}}}}
    quotas: {quotas}
deployment: {{warm: 0}}
"""


async def test_runs_beyond_the_rate_are_refused_and_told_when_to_come_again(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, policy("{runs: 2/h}")) as here, here.client(era) as client:
        for _ in range(2):
            await call(client, "code_execution", code="out hi")
        refused = await refusal(client, "code_execution", code="out hi")
        assert len(here.engine.started) == (1 if era == "legacy" else 2)
        await call(client, "filesystem", operation="write", path="a", content="x")
        decision = [each for each in await here.record() if each["decision"] == "deny"]
    assert refused["code"] == "quota_exceeded"
    assert refused["rule"] == "roles.basic.quotas.runs"
    assert refused["retry_safe"] is True
    assert 1700 < refused["retry_after"] <= 1800
    assert [each["reason"] for each in decision] == ["quota.runs"]


async def test_a_quota_that_is_used_up_is_a_decision_with_its_own_word_and_no_grant(tmp_path: Path) -> None:
    asked: list[Decision] = []

    async def nobody(decision: Decision) -> bool:
        asked.append(decision)
        return True

    async with place(tmp_path, policy("{runs: 1/h}")) as here:
        gate = here.enforced.gate
        caller = gate.current.caller(here.enforced.local, None)
        wanted = Request("code_execution", {"language": "python", "code": "x"})
        async with gate.admit(caller, wanted, nobody) as entered:
            assert entered.decision.retry_after is None
        with pytest.raises(QuotaExceeded) as caught:
            async with gate.admit(caller, wanted, nobody):
                raise AssertionError
    assert 3500 < caught.value.retry_after <= 3600
    assert caught.value.rule == "roles.basic.quotas.runs"
    assert asked == []


async def test_calls_that_are_denied_count_too(tmp_path: Path) -> None:
    async with place(tmp_path, policy("{runs: 2/h}")) as here, here.client() as client:
        for _ in range(2):
            await refusal(client, "code_execution", code="out hi", language="go")
        assert (await refusal(client, "code_execution", code="out hi"))["code"] == "quota_exceeded"


async def test_a_burst_is_all_that_comes_at_once(tmp_path: Path) -> None:
    async with place(tmp_path, policy("{runs: 100/h, burst: 1}")) as here, here.client() as client:
        await call(client, "code_execution", code="out hi")
        refused = await refusal(client, "code_execution", code="out hi")
    assert 30 < refused["retry_after"] <= 36


async def test_a_quota_of_nothing_is_a_denial_for_good(tmp_path: Path) -> None:
    async with place(tmp_path, policy("{runs: 0/day}")) as here, here.client() as client:
        refused = await refusal(client, "code_execution", code="out hi")
    assert (refused["code"], refused["rule"]) == ("policy_denied", "roles.basic.quotas.runs")


async def test_cpu_time_is_reserved_for_a_run_and_given_back_but_for_what_it_used(tmp_path: Path) -> None:
    async with place(tmp_path, policy("{cpu_seconds: 15/day}")) as here, here.client("2026-07-28") as client:
        for _ in range(3):
            await call(client, "code_execution", code="out hi")
        async with anyio.create_task_group() as tasks:
            # Ten of the fifteen are reserved for it as long as it runs.
            tasks.start_soon(client.call_tool, "code_execution", {"code": "hang"})
            await anyio.wait_all_tasks_blocked()
            await here.engine.until(lambda: here.engine.live > 0)
            await anyio.wait_all_tasks_blocked()
            refused = await refusal(client, "code_execution", code="out hi")
            tasks.cancel_scope.cancel()
    assert (refused["code"], refused["rule"]) == ("quota_exceeded", "roles.basic.quotas.cpu_seconds")


async def test_waiting_for_a_session_costs_no_cpu_time(tmp_path: Path) -> None:
    async with place(tmp_path, policy("{cpu_seconds: 10/day}")) as here, here.client() as client:
        await call(client, "sandbox", operation="create", language="python")
        quota = here.enforced.gate.current.effective(here.enforced.local).quotas
        whole = here.enforced.gate.quotas.reserve_cpu(here.enforced.local.key, quota, 10.0)
    assert whole is not None


async def test_no_more_calls_are_under_way_than_the_policy_says(tmp_path: Path) -> None:
    async with (
        place(tmp_path, policy("{concurrent: 1}")) as here,
        here.client("2026-07-28") as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(client.call_tool, "code_execution", {"code": "hang"})
        await anyio.wait_all_tasks_blocked()
        await here.engine.until(lambda: here.engine.live > 0)
        refused = await refusal(client, "code_execution", code="out hi")
        tasks.cancel_scope.cancel()
    assert refused["code"] == "busy"
    assert "1 runs of yours" in refused["message"]


QUOTA: Mapping[str, Limit] = {"cpu_seconds": Limit(100, "here", 1000.0)}


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 2), st.integers(0, 200)), max_size=60))
def test_never_more_cpu_time_is_used_than_granted_but_for_the_last_run(
    runs: list[tuple[float, float, int]],
) -> None:
    """Each: what may be used, the part of it that is, and seconds that pass before it."""
    now = 0
    quotas = Quotas(Buckets(clock=lambda: now))
    used = 0.0
    for most, part, pause in runs:
        now += pause * NANO
        try:
            reserved = quotas.reserve_cpu("p", QUOTA, most)
        except QuotaExceeded:
            continue
        used += most * min(part, 1.0)
        quotas.settle_cpu(reserved, most * min(part, 1.0))
    granted = 100 + now / NANO * 0.1
    assert used <= granted + 0.01 * len(runs)


async def test_a_run_that_was_never_begun_costs_no_cpu_time(tmp_path: Path) -> None:
    async def nobody(decision: Decision) -> bool:
        raise AssertionError

    async with place(tmp_path, policy("{cpu_seconds: 10/day}")) as here:
        gate = here.enforced.gate
        caller = gate.current.caller(here.enforced.local, None)
        asked = Request("code_execution", {"language": "python", "code": "x"})
        for _ in range(3):  # each may use all there is
            with pytest.raises(Busy) as caught:
                async with gate.admit(caller, asked, nobody):
                    raise Busy("no place", retry_after=1.0)
            assert caught.value.code == "busy"
