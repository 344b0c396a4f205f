"""A policy that changes under a running server: all of it at once, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import pytest
import structlog

from sandbox_server.access.database.databases import Databases
from sandbox_server.access.database.settings import DatabaseSettings
from sandbox_server.enforcement.databases import DatabaseRules
from sandbox_server.engines.profile import Profile
from sandbox_server.execution.grants import Rights
from sandbox_server.execution.manager import Manager
from tests.enforcement.place import HEAD, call, facts, place, refusal

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
        await here.engine.until(lambda: here.engine.live == 2)  # they are made ahead, in their own time
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
            await here.engine.until(lambda: here.engine.waiting == 1)
            assert (await here.manager.health())["waiting"] == 1
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


async def test_a_file_that_changes_is_noticed_once_it_is_at_rest(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here:
        reloading, before = here.ruling.reloading, here.enforced.policy.revision
        assert not await reloading.look()
        (tmp_path / "policy.yaml").write_text(HEAD + policy("{python: {}}"))
        assert not await reloading.look(), "somebody may still be writing it"
        assert await reloading.look()
        assert not await reloading.look()
        assert here.enforced.policy.revision != before
        assert (reloading.reloads, reloading.failures) == (1, 0)


async def test_whoever_watches_notices_a_change_made_since_the_policy_was_read(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, anyio.create_task_group() as tasks:
        before, noticed = here.enforced.policy.revision, anyio.Event()
        here.enforced.gate.current.on_change(lambda new: noticed.set())
        (tmp_path / "policy.yaml").write_text(HEAD + policy("{python: {}}"))
        tasks.start_soon(lambda: here.ruling.reloading.watch(every=0.01))
        await noticed.wait()
        assert here.enforced.policy.revision != before
        tasks.cancel_scope.cancel()


async def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    async with place(tmp_path, BOTH) as here:
        reloading, before = here.ruling.reloading, here.enforced.policy.revision
        assert not await reloading.look()
        was = file.stat()
        changed = file.read_text().replace("{python: {}, bash: {image: shell}}", "{python: {}}" + " " * 22)
        while (
            file.stat().st_ctime_ns == was.st_ctime_ns
        ):  # the kernel's clock ticks a few hundred times a second
            file.write_text(changed)
            os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
        assert not await reloading.look()
        assert await reloading.look()
        assert here.enforced.policy.revision != before


async def test_a_policy_that_is_taken_away_leaves_the_last_one_in_force(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here:
        reloading, before = here.ruling.reloading, here.enforced.policy.revision
        (tmp_path / "policy.yaml").rename(tmp_path / "elsewhere")
        assert not await reloading.look()
        assert await reloading.look()
        assert (reloading.reloads, reloading.failures) == (0, 1)
        assert here.enforced.policy.revision == before
        (tmp_path / "next").write_text(HEAD + policy("{python: {}}"))
        (tmp_path / "next").rename(tmp_path / "policy.yaml")
        assert not await reloading.look()
        assert await reloading.look()
        assert here.enforced.policy.revision != before


async def test_who_waits_for_a_session_by_the_old_rules_is_told_to_call_again(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here, here.client("2026-07-28") as client:
        (made,) = (await call(client, "sandbox", operation="create", language="python"))["sessions"]
        session = here.manager.sessions.registry.all()[0]
        answers, queued = [], anyio.Event()

        async def told(progress: float, total: float | None, message: str | None) -> None:
            queued.set()

        async def wait() -> None:
            wanted = {"code": "out hi", "language": "python", "session": made["id"]}
            answer = await client.call_tool("code_execution", wanted, progress_callback=told)
            assert answer.is_error
            answers.append(facts(answer))

        async with anyio.create_task_group() as tasks, session.lock.taken():
            tasks.start_soon(wait)
            await queued.wait()
            assert await here.rewrite(policy("{python: {wall: 5s}, bash: {image: shell}}"))
        assert (answers[0]["code"], answers[0]["retry_safe"]) == ("busy", True)
        again = await call(client, "code_execution", code="out hi", language="python", session=made["id"])
        assert again["session"]["state"] == "kept"


class Unwilling(Manager):
    """Its books break while a policy is taken into them, as often as it is told."""

    breaks = 0

    def regrant(
        self,
        warm: Iterable[Profile],
        revision: str,
        rights_of: Callable[[object], Rights],
        *,
        longest_run: float,
    ) -> None:
        super().regrant(warm, revision, rights_of, longest_run=longest_run)
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("a fault in the books")


async def test_a_policy_that_can_not_be_put_in_force_everywhere_is_in_force_nowhere(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH, manager=Unwilling) as here, here.client() as client:
        assert isinstance(here.manager, Unwilling)
        before = here.enforced.policy
        here.manager.breaks = 1
        with structlog.testing.capture_logs() as logs:
            assert not await here.rewrite(policy("{python: {}}"))
        (said,) = [each for each in logs if each["event"] == "policy_reload_failed"]
        assert said["in_force"] == before.revision == here.enforced.policy.revision
        await call(client, "code_execution", code="out hi", language="bash")
        assert (await here.ruling.health())["policy_reload_failures_total"] == 1
        assert await here.rewrite(policy("{python: {}}"))
        assert (await refusal(client, "code_execution", code="x", language="bash"))["code"] == "policy_denied"


class Stuck(Databases):
    """A driver that fails while its connections are closed."""

    async def keep(self, settings: Iterable[DatabaseSettings]) -> None:
        await super().keep(settings)
        raise OSError("the driver is gone")


async def test_a_fault_while_old_connections_are_closed_is_told_as_what_it_is(tmp_path: Path) -> None:
    """The new policy rules by then, and the log says so."""
    async with place(tmp_path, BOTH) as here, here.client() as client:
        outside = here.enforced.outside
        real, outside.databases = outside.databases, Stuck(DatabaseRules(here.enforced.gate), str)
        with structlog.testing.capture_logs() as logs:
            assert await here.rewrite(policy("{python: {}}"))
        outside.databases = real
        events = {each["event"]: each for each in logs}
        assert "policy_reload_failed" not in events
        assert events["policy_cleanup_failed"]["revision"] == here.enforced.policy.revision
        assert events["policy_reloaded"]["revision"] == here.enforced.policy.revision
        assert (await refusal(client, "code_execution", code="x", language="bash"))["code"] == "policy_denied"


async def test_what_waits_for_the_next_start_is_named_until_it_is_taken_back(tmp_path: Path) -> None:
    async with place(tmp_path, BOTH) as here:
        for edit, waiting in (
            (BOTH.replace("warm: 0", "warm: 0, sandboxes: 4, store_ttl: 60s"), ["sandboxes", "store_ttl"]),
            (policy("{python: {}}").replace("warm: 0", "warm: 0, sandboxes: 4"), ["sandboxes"]),
            (BOTH, None),
        ):
            with structlog.testing.capture_logs() as logs:
                assert await here.rewrite(edit)
            said = [each["keys"] for each in logs if each["event"] == "policy_waits_for_restart"]
            assert said == ([] if waiting is None else [[f"deployment.{key}" for key in waiting]])
