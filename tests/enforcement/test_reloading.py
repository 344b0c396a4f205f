"""A policy that changes under a running server: all of it at once, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from tests.enforcement.place import HEAD, call, place, refusal

pytestmark = pytest.mark.anyio


def policy(languages: str, more: str = "", warm: int = 0) -> str:
    return f"""
roles:
  basic:
    tools: {{allow: [code_execution, sandbox]}}
    code: {{languages: {languages}}}
{more}
deployment: {{warm: {warm}}}
"""


BOTH = policy("{python: {}, bash: {image: shell}}")


async def test_a_new_policy_holds_from_the_next_call_on(tmp_path: Path, era: str) -> None:
    async with place(tmp_path, BOTH) as here, here.client(era) as client:
        before = here.enforced.policy.revision
        await call(client, "code_execution", code="out hi", language="bash")
        assert await here.rewrite(policy("{python: {}}"))
        refused = await refusal(client, "code_execution", code="x", language="bash")
        assert refused["reason"] == "code.language"
        (tool, _) = (await client.list_tools()).tools
        assert tool.input_schema["properties"]["language"]["enum"] == ["python"]
        await call(client, "code_execution", code="out hi", language="python")
        record = await here.record()
        after = here.enforced.policy.revision
    assert [each["revision"] for each in record] == [before, after, after]
    assert before != after


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(BOTH + "enforcment: observe\n", id="a key that nobody knows"),
        pytest.param(BOTH.replace("allow: [code", "alow: [code"), id="a key that is misspelt"),
        pytest.param(BOTH.replace("roles:", "roles: ["), id="no YAML at all"),
        pytest.param("", id="half a file"),
        pytest.param(policy("{python: {memory: lots}}"), id="a unit that is none"),
    ],
)
async def test_an_edit_that_is_broken_opens_nothing_and_closes_nothing(tmp_path: Path, edit: str) -> None:
    async with place(tmp_path, BOTH) as here, here.client() as client:
        before = here.enforced.policy.revision
        await call(client, "code_execution", code="set a 1", language="python")
        assert not await here.rewrite(edit)
        health = await here.ruling.health()
        assert health["revision"] == before
        assert health["policy_reload_failures_total"] == 1
        assert (await call(client, "code_execution", code="get a"))["session"]["state"] == "kept"
        assert (await refusal(client, "code_execution", code="x", language="go"))["code"] == "policy_denied"
        assert (await refusal(client, "filesystem", operation="list"))["code"] == "policy_denied"
        assert await here.rewrite(BOTH)
        assert (await here.ruling.health())["revision"] == before


async def test_a_policy_whose_tests_fail_is_not_taken(tmp_path: Path) -> None:
    cases = tmp_path / "p.test.yaml"
    cases.write_text(
        "- name: bash is not for everybody\n"
        "  request: {tool: code_execution, args: {language: bash, code: x}}\n"
        "  expect: {decision: deny}\n"
    )
    tested = "tests: [p.test.yaml]\n"
    async with place(tmp_path, policy("{python: {}}", tested)) as here, here.client() as client:
        assert not await here.rewrite(policy("{python: {}, bash: {image: shell}}", tested))
        assert (await refusal(client, "code_execution", code="x", language="bash"))["code"] == "policy_denied"
        assert await here.rewrite(policy("{python: {}, javascript: {}}", tested))


async def test_no_sandbox_of_the_old_revision_is_handed_out_after_the_swap(tmp_path: Path) -> None:
    async with place(tmp_path, policy("{python: {}}", warm=2)) as here, here.client("2026-07-28") as client:
        while here.engine.live < 2:  # noqa: ASYNC110 - they are made ahead in their own time
            await anyio.sleep(0.005)
        old = list(here.engine.started)
        assert await here.rewrite(policy("{python: {pids: 32}}", warm=2))
        for _ in range(3):
            await call(client, "code_execution", code="out hi")
        await anyio.wait_all_tasks_blocked()
        fresh = [each for each in here.engine.started if each not in old]
        assert all(each.destroyed for each in old)
        assert not any(each.runner.ran for each in old)
        assert {each.profile.revision for each in fresh} == {here.enforced.policy.revision}
        assert {each.profile.limits.pids for each in fresh} == {32}


async def test_who_waits_by_the_old_rules_is_told_to_call_again(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, here.client("2026-07-28") as client:
        here.engine.gate = anyio.Event()
        answers = []

        async def wait() -> None:
            answers.append(await refusal(client, "code_execution", code="out hi"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while not (await here.manager.health())["waiting"]:  # noqa: ASYNC110 - it is on its way there
                await anyio.sleep(0.005)
            assert await here.rewrite(policy("{python: {pids: 32}}"))
            here.engine.gate.set()
        assert (answers[0]["code"], answers[0]["retry_safe"]) == ("busy", True)
        assert not any(each.runner.ran for each in here.engine.started)
        await call(client, "code_execution", code="out hi")


async def test_a_session_that_is_still_allowed_goes_on(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, here.client() as client:
        await call(client, "code_execution", code="set a 1")
        assert await here.rewrite(policy("{python: {}}"))
        result = await call(client, "code_execution", code="get a")
        assert result["session"]["state"] == "kept"
        assert result["stdout"] == "1\n"


async def test_a_session_with_more_than_is_granted_now_begins_anew_and_says_why(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, here.client() as client:
        await call(client, "code_execution", code="set a 1")
        assert await here.rewrite(policy("{python: {memory: 128MiB, workspace: 8MiB}}"))
        result = await call(client, "code_execution", code="out hi")
        assert result["session"]["state"] == "lost"
        assert "the policy has changed" in result["session"]["note"]
        assert [each.profile.limits.memory for each in here.engine.started][-1] == 128 * 1024**2
        assert here.engine.started[0].destroyed


async def test_a_session_whose_language_is_gone_is_closed_and_its_handle_says_so(
    tmp_path: Path, era: str
) -> None:
    async with place(tmp_path, BOTH) as here, here.client(era) as client:
        (made,) = (await call(client, "sandbox", operation="create", language="bash"))["sessions"]
        assert await here.rewrite(policy("{python: {}}"))
        refused = await refusal(client, "sandbox", operation="info", session=made["id"])
        await anyio.wait_all_tasks_blocked()
        assert here.engine.started[0].destroyed
    assert refused["code"] == "not_found"
    assert "the policy has changed and no longer grants it" in refused["message"]


async def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, anyio.create_task_group() as tasks:
        reloading = here.ruling.reloading
        tasks.start_soon(lambda: reloading.watch(every=0.01))
        before = here.enforced.policy.revision
        await anyio.sleep(0.05)
        (tmp_path / "policy.yaml").write_text(HEAD + policy("{python: {}}"))
        while not reloading.reloads:  # noqa: ASYNC110 - the file system tells nobody
            await anyio.sleep(0.01)
        assert here.enforced.policy.revision != before
        assert reloading.failures == 0
        tasks.cancel_scope.cancel()


async def test_a_change_between_the_reading_and_the_watching_is_noticed(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, anyio.create_task_group() as tasks:
        reloading, before = here.ruling.reloading, here.enforced.policy.revision
        (tmp_path / "policy.yaml").write_text(HEAD + policy("{python: {}}"))
        tasks.start_soon(lambda: reloading.watch(every=0.01))
        while not reloading.reloads:  # noqa: ASYNC110 - the file system tells nobody
            await anyio.sleep(0.01)
        assert here.enforced.policy.revision != before
        tasks.cancel_scope.cancel()


async def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    async with place(tmp_path, BOTH) as here, anyio.create_task_group() as tasks:
        reloading, before = here.ruling.reloading, here.enforced.policy.revision
        tasks.start_soon(lambda: reloading.watch(every=0.01))
        await anyio.sleep(0.05)
        was = file.stat()
        file.write_text(
            file.read_text().replace("{python: {}, bash: {image: shell}}", "{python: {}}" + " " * 22)
        )
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert file.stat().st_size == was.st_size
        while not reloading.reloads:  # noqa: ASYNC110 - the file system tells nobody
            await anyio.sleep(0.01)
        assert here.enforced.policy.revision != before
        tasks.cancel_scope.cancel()


async def test_a_policy_that_is_taken_away_leaves_the_last_one_in_force(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, anyio.create_task_group() as tasks:
        reloading, before = here.ruling.reloading, here.enforced.policy.revision
        tasks.start_soon(lambda: reloading.watch(every=0.01))
        await anyio.sleep(0.05)
        (tmp_path / "policy.yaml").rename(tmp_path / "elsewhere")
        while not reloading.failures:  # noqa: ASYNC110 - the file system tells nobody
            await anyio.sleep(0.01)
        assert here.enforced.policy.revision == before
        (tmp_path / "next").write_text(HEAD + policy("{python: {}}"))
        (tmp_path / "next").rename(tmp_path / "policy.yaml")
        while not reloading.reloads:  # noqa: ASYNC110 - the file system tells nobody
            await anyio.sleep(0.01)
        assert here.enforced.policy.revision != before
        tasks.cancel_scope.cancel()


async def test_who_waits_for_a_session_by_the_old_rules_is_told_to_call_again(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, here.client("2026-07-28") as client:
        (made,) = (await call(client, "sandbox", operation="create", language="python"))["sessions"]
        session = here.manager.sessions.registry.all()[0]
        answers = []

        async def wait() -> None:
            wanted = {"code": "out hi", "language": "python", "session": made["id"]}
            answers.append(await refusal(client, "code_execution", **wanted))

        async with anyio.create_task_group() as tasks, session.lock.taken():
            tasks.start_soon(wait)
            while len(await here.record()) < 2:  # noqa: ASYNC110 - it is on its way there
                await anyio.sleep(0.005)
            await anyio.wait_all_tasks_blocked()
            assert await here.rewrite(policy("{python: {wall: 5s}, bash: {image: shell}}"))
        assert (answers[0]["code"], answers[0]["retry_safe"]) == ("busy", True)
        again = await call(client, "code_execution", code="out hi", language="python", session=made["id"])
        assert again["session"]["state"] == "kept"
