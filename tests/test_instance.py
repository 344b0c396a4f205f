from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sandbox_server.errors import ConfigError
from sandbox_server.instance import ownerless, take_instance

HOLDER = """
import sys
from pathlib import Path
from sandbox_server.instance import take_instance
lease = take_instance(Path(sys.argv[1]))
print(lease.slot, lease.id, flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(state: Path) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Another process that holds a slot: its name, its id and the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        slot, identity = process.stdout.readline().split()
        yield slot, identity, process
    finally:
        process.kill()
        process.communicate()


def test_the_id_survives_the_process_that_made_it(tmp_path: Path) -> None:
    with holder(tmp_path / "state") as (_, first, _process):
        pass
    with take_instance(tmp_path / "state") as lease:
        assert lease.id == first
        assert lease.slot == "instance-1"


def test_two_live_servers_never_share_an_id(tmp_path: Path) -> None:
    with holder(tmp_path) as (slot, identity, _), holder(tmp_path) as (other_slot, other, _process):
        assert (slot, other_slot) == ("instance-1", "instance-2")
        assert identity != other


def test_a_killed_owner_frees_its_slot_and_a_live_one_keeps_it(tmp_path: Path) -> None:
    with holder(tmp_path) as (_, killed_id, killed), holder(tmp_path) as (_, live_id, _live):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert [lease.id for lease in ownerless(tmp_path)] == [killed_id]
        with take_instance(tmp_path) as lease:
            assert lease.id == killed_id
            assert lease.id != live_id
            assert list(ownerless(tmp_path)) == []


def test_a_named_instance_is_held_by_one_server_at_a_time(tmp_path: Path) -> None:
    with take_instance(tmp_path, "blue") as lease:
        with pytest.raises(ConfigError, match="blue is running"):
            take_instance(tmp_path, "blue")
        with take_instance(tmp_path) as unnamed:
            assert unnamed.id != lease.id
    take_instance(tmp_path, "blue").release()


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", "a\n", "x" * 42])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not valid"):
        take_instance(tmp_path, name)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 4096, b"0" * 32])
def test_a_half_written_id_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instance-1").write_bytes(content)
    with take_instance(tmp_path) as lease:
        assert (tmp_path / "instance-1").read_text() == lease.id + "\n"
        assert len(lease.id) == 32


def test_the_state_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    with take_instance(tmp_path / "a" / "state") as lease:
        assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "a" / "state" / lease.slot).stat().st_mode & 0o777 == 0o600


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        take_instance(tmp_path)


def test_a_state_directory_that_is_a_file_or_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "file/below"):
        with pytest.raises(ConfigError, match="state directory"):
            take_instance(tmp_path / name)


def test_a_slot_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "instance-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="instance-1"):
        take_instance(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_slots_run_out_with_an_explanation(tmp_path: Path) -> None:
    with ExitStack() as held:
        for _ in range(64):
            held.enter_context(take_instance(tmp_path))
        with pytest.raises(ConfigError, match="64 servers"):
            take_instance(tmp_path)
