"""The decision log while it is written: what stands in it, when calls are stopped, what outlives a crash."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sandbox_server.audit.chain import GENESIS
from sandbox_server.audit.log import DecisionLog, open_log
from sandbox_server.audit.masking import AuditRules
from sandbox_server.audit.verify import log_files, verify
from sandbox_server.errors import AuditUnavailable, ConfigError
from sandbox_server.observe.trace import traced

pytestmark = pytest.mark.anyio
RULES = AuditRules()


def record(**changed: Any) -> dict[str, Any]:
    return {
        "revision": "sha256:1",
        "principal": {"sub": "a", "iss": None, "client_id": None},
        "tool": "code_execution",
        "args": {"language": "python", "code": "print(1)"},
        "resource": {"language": "python"},
        "decision": "allow",
        "rule": "roles.basic.code.languages.python",
        "reason": "code.allowed",
        "would_deny": False,
        **changed,
    }


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in log_files([directory]) for line in path.read_text().splitlines()]


TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_a_call_is_two_lines_and_the_first_is_there_before_the_act(
    tmp_path: Path,
) -> None:
    async with open_log(tmp_path, RULES) as log:
        with traced(TRACE):
            made = await log.decision(record())
        before = lines(tmp_path)
        log.outcome(made, "ok", duration=0.25, bytes_in=3, bytes_out=4)
    assert [line["kind"] for line in before] == ["opened", "decision"]
    assert before[1]["decision_id"] == made
    assert before[1]["trace_id"] == TRACE
    *_, outcome, closed = lines(tmp_path)
    assert (outcome["decision_id"], outcome["outcome"], outcome["duration"]) == (made, "ok", 0.25)
    assert (outcome["bytes_in"], outcome["bytes_out"]) == (3, 4)
    assert closed["kind"] == "closed"
    assert verify([tmp_path]).holds


async def test_the_chain_goes_on_over_files_and_restarts_and_old_files_give_way(tmp_path: Path) -> None:
    for start in range(3):
        async with open_log(tmp_path, RULES, max_bytes=4000, keep=4) as log:
            for _ in range(20):
                log.outcome(await log.decision(record()), "ok")
            head = log.head
        assert head != GENESIS, start
    proof = verify([tmp_path])
    assert proof.holds
    assert proof.files == 4
    assert proof.first > 1
    assert proof.last == 3 * 42
    names = [path.name for path in log_files([tmp_path])]
    assert names == sorted(names)


async def test_a_full_disk_stops_calls_and_the_log_tells_later_what_it_lost(tmp_path: Path) -> None:
    async with open_log(tmp_path, RULES) as log:
        await log.decision(record())
        with full_disk(tmp_path):
            with pytest.raises(AuditUnavailable, match="can't be written"):
                await log.decision(record(tool="web_api"))
            assert not log.healthy
        await log.decision(record(tool="database"))
        assert log.healthy
    tools = [line.get("tool", line["kind"]) for line in lines(tmp_path)]
    assert tools == ["opened", "code_execution", "opened", "database", "closed"]
    proof = verify([tmp_path])
    assert proof.holds
    assert proof.lost == 1


async def test_a_policy_may_say_that_calls_go_on_without_a_record(tmp_path: Path) -> None:
    async with open_log(tmp_path, AuditRules(on_failure="continue")) as log:
        with full_disk(tmp_path):
            assert await log.decision(record())
        await log.decision(record())
    assert verify([tmp_path]).lost == 1


async def test_a_log_that_can_not_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a directory should be")
    with pytest.raises(ConfigError, match="can't be written"):
        async with open_log(tmp_path / "log", RULES):
            pass
    async with open_log(tmp_path / "log", AuditRules(on_failure="continue")) as log:
        assert not log.healthy


async def test_two_servers_never_write_one_log(tmp_path: Path) -> None:
    async with open_log(tmp_path, RULES):
        with pytest.raises(ConfigError, match="another server writes"):
            async with open_log(tmp_path, RULES):
                pass


async def test_a_log_that_was_taken_away_goes_on_in_a_file_that_can_be_read(tmp_path: Path) -> None:
    async with open_log(tmp_path, RULES) as log:
        await log.decision(record())
        (only,) = log_files([tmp_path])
        only.unlink()
        await log.decision(record(tool="after"))
    assert "after" in [line.get("tool") for line in lines(tmp_path)]
    assert verify([tmp_path]).first == 3  # that lines are missing shows


async def test_many_calls_at_once_are_each_recorded_once(tmp_path: Path) -> None:
    async with open_log(tmp_path, RULES) as log, anyio.create_task_group() as tasks:
        for number in range(500):
            tasks.start_soon(one_call, log, number)
    found = [line for line in lines(tmp_path) if line["kind"] == "decision"]
    assert sorted(line["args"]["number"] for line in found) == list(range(500))
    assert len({line["decision_id"] for line in found}) == 500
    outcomes = {line["decision_id"] for line in lines(tmp_path) if line["kind"] == "outcome"}
    assert outcomes == {line["decision_id"] for line in found}
    assert verify([tmp_path]).holds


async def one_call(log: DecisionLog, number: int) -> None:
    log.outcome(await log.decision(record(args={"number": number})), "ok")


async def test_what_a_cancelled_server_was_handed_is_still_written(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with open_log(tmp_path, RULES) as log:
            made = await log.decision(record())
            scope.cancel()
            log.outcome(made, "cancelled")
            await anyio.sleep_forever()
    assert [line["kind"] for line in lines(tmp_path)] == ["opened", "decision", "outcome", "closed"]


async def test_nothing_is_taken_after_the_log_is_closed(tmp_path: Path) -> None:
    async with open_log(tmp_path, RULES) as log:
        made = await log.decision(record())
    with pytest.raises(AuditUnavailable, match="closed"):
        await log.decision(record())
    log.outcome(made, "ok")
    assert lines(tmp_path)[-1]["kind"] == "closed"


async def test_only_denials_are_kept_where_the_policy_says_so(tmp_path: Path) -> None:
    async with open_log(tmp_path, AuditRules(log="denied")) as log:
        assert await log.decision(record()) == ""
        log.outcome("", "ok")
        assert await log.decision(record(decision="deny", tool="refused"))
        assert await log.decision(record(would_deny=True, tool="observed"))
    tools = [line.get("tool", line["kind"]) for line in lines(tmp_path)]
    assert tools == ["opened", "refused", "observed", "closed"]


WRITER = """
import sys, anyio
from pathlib import Path
from sandbox_server.audit.log import open_log
from sandbox_server.audit.masking import AuditRules
async def main():
    async with open_log(Path(sys.argv[1]), AuditRules()) as log:
        print("ready", flush=True)
        while True:
            await log.decision({"decision": "allow", "args": {"text": "x" * 1000}})
anyio.run(main)
"""


async def test_a_server_killed_while_it_writes_leaves_a_log_that_holds(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        ) as server:
            assert server.stdout
            assert server.stdout.readline() == b"ready\n"
            before = verify([tmp_path]).last
            with anyio.fail_after(20):
                while verify([tmp_path]).last < before + 50:
                    await anyio.lowlevel.checkpoint()
            server.send_signal(signal.SIGKILL)
    assert verify([tmp_path]).holds


@pytest.mark.parametrize("cut", [1, 2, 40, 75, 200])
async def test_a_line_cut_by_a_crash_is_told_and_the_chain_goes_on(tmp_path: Path, cut: int) -> None:
    async with open_log(tmp_path, RULES) as log:
        await log.decision(record())
    (only,) = log_files([tmp_path])
    raw = only.read_bytes().splitlines(keepends=True)
    only.write_bytes(b"".join(raw[:2])[:-cut])
    torn = len(raw[1]) - cut
    assert verify([tmp_path]).torn == torn
    async with open_log(tmp_path, RULES) as log:
        await log.decision(record(tool="after"))
    told = lines(tmp_path)[1]
    assert told["torn"]["bytes"] == torn
    proof = verify([tmp_path])
    assert proof.holds
    assert proof.interrupted == 1
    assert proof.torn == 0


async def test_files_are_the_servers_alone(tmp_path: Path) -> None:
    async with open_log(tmp_path / "log", RULES) as log:
        await log.decision(record())
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in log_files([tmp_path / "log"]))


@contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """Writes to the log fail part-way, as on a disk that fills up."""
    size = max(path.stat().st_size for path in log_files([directory]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
