"""`sandbox-server audit verify` as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox_server.audit.files import LogFiles


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log where a server keeps it."""
    return write_log(tmp_path / "decisions" / "instance-1")


def write_log(directory: Path) -> Path:
    files = LogFiles(directory, stamp=dict, max_bytes=500)
    files.open()
    for number in range(5):
        files.append([{"kind": "decision", "tool": f"tool-{number}"}])
    files.close()
    return directory


def verify(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sandbox_server", "audit", "verify", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


def test_a_log_that_holds_is_proven_and_its_head_printed(log: Path, tmp_path: Path) -> None:
    done = verify(SANDBOX_SERVER_STATE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("holds: lines 1 to 6 in ")
    head = done.stdout.rsplit("head: ", 1)[1].strip()
    again = verify(str(log), "--head", head, "--json")
    assert again.returncode == 0
    (found,) = json.loads(again.stdout)
    assert (found["holds"], found["head"], found["head_at"]) == (True, head, 6)


def test_of_several_logs_each_is_named_and_a_head_is_one_of_one(log: Path, tmp_path: Path) -> None:
    other = write_log(tmp_path / "decisions" / "instance-2")
    done = verify(SANDBOX_SERVER_STATE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count(f"{log}:") == lines.count(f"{other}:") == 1
    head = lines[-1].removeprefix("head: ")
    asked = verify("--head", head, SANDBOX_SERVER_STATE_DIR=str(tmp_path))
    assert asked.returncode == 2
    assert "2 decision logs" in asked.stderr
    assert verify(str(other), "--head", head).returncode == 0


def test_the_first_broken_line_is_named_and_the_exit_status_says_so(log: Path) -> None:
    first = min(log.glob("*.jsonl"))
    first.write_bytes(first.read_bytes().replace(b"tool-0", b"tool-7"))
    done = verify(str(log))
    assert done.returncode == 1
    assert done.stdout.startswith(f"broken: {first}:2: the line was changed")


def test_a_log_that_was_cut_is_found_by_its_old_head(log: Path) -> None:
    head = json.loads(verify(str(log), "--json").stdout)[0]["head"]
    max(log.glob("*.jsonl")).unlink()
    assert verify(str(log)).returncode == 0
    done = verify(str(log), "--head", head)
    assert done.returncode == 1
    assert "cut off the end" in done.stdout


def test_nothing_to_read_is_neither(tmp_path: Path) -> None:
    done = verify(SANDBOX_SERVER_STATE_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "there is no decision log" in done.stderr
