"""What is used up stays so where the server restarts."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.enforcement.keeping import open_quotas
from sandbox_server.enforcement.quotas import Quotas
from sandbox_server.errors import QuotaExceeded
from sandbox_server.policy.decision import Limit
from sandbox_server.security.limits import NANO, Buckets, Rate
from tests.enforcement.place import call, place, refusal
from tests.enforcement.test_quotas import policy

pytestmark = pytest.mark.anyio

DAY = {"runs": Limit(1, "here", 86400.0)}
MANY = {"runs": Limit(10**9, "here", 86400.0)}


async def test_a_quota_of_a_day_outlives_a_restart(tmp_path: Path) -> None:
    for used in (False, True):
        async with place(tmp_path, policy("{runs: 1/day}")) as here, here.client() as client:
            if used:
                refused = await refusal(client, "code_execution", code="out hi")
                assert refused["code"] == "quota_exceeded"
            else:
                await call(client, "code_execution", code="out hi")


@pytest.mark.parametrize(
    ("seconds", "wait"),
    [(0, 86400), (3600, 82800), (-3600, 86400)],
    ids=["at once", "later", "clock set back"],
)
async def test_the_time_in_which_no_server_ran_counts(tmp_path: Path, seconds: int, wait: int) -> None:
    file, now = tmp_path / "quotas.json", 10**18
    async with open_quotas(file, now=lambda: now) as quotas:
        quotas.take("alice", "runs", DAY)
    assert file.stat().st_mode & 0o777 == 0o600
    async with open_quotas(file, now=lambda: now + seconds * NANO) as quotas:
        with pytest.raises(QuotaExceeded) as caught:
            quotas.take("alice", "runs", DAY)
        quotas.take("bob", "runs", DAY)
    assert wait - 5 < caught.value.retry_after <= wait


async def test_a_name_that_is_no_text_costs_the_others_nothing(tmp_path: Path) -> None:
    file = tmp_path / "quotas.json"
    async with open_quotas(file) as quotas:
        quotas.take("\ud800", "runs", DAY)
        quotas.take("alice", "runs", DAY)
    async with open_quotas(file) as quotas:
        with pytest.raises(QuotaExceeded):
            quotas.take("alice", "runs", DAY)


async def test_who_owes_more_than_a_number_of_the_file_may_be_costs_the_others_nothing(
    tmp_path: Path,
) -> None:
    file, byte = tmp_path / "quotas.json", {"egress_bytes": Limit(1, "here", 86400.0)}
    async with open_quotas(file) as quotas:
        assert quotas.spend_bytes("mallory", byte, 10**6) == "here"
        quotas.take("alice", "runs", DAY)
    async with open_quotas(file) as quotas:
        with pytest.raises(QuotaExceeded):
            quotas.take("alice", "runs", DAY)
        with pytest.raises(QuotaExceeded):
            quotas.check_bytes("mallory", byte)


async def test_what_has_come_back_meanwhile_is_there(tmp_path: Path) -> None:
    file, now = tmp_path / "quotas.json", 10**18
    async with open_quotas(file, now=lambda: now) as quotas:
        quotas.take("alice", "runs", DAY)
    async with open_quotas(file, now=lambda: now + 86400 * NANO) as quotas:
        quotas.take("alice", "runs", DAY)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"schema":2,"saved_at":1,"buckets":[]}',
        b'{"schema":1,"saved_at":1,"buckets":[[["a"],-1,1]]}',
        b'{"schema":1,"saved_at":1,"buckets":[[["a"],1e400,1]]}',
        b'{"schema":1,"saved_at":1,"buckets":[[[1],1,1]]}',
        b'{"schema":1,"saved_at":1,"buckets":[[["a"],1,0]]}',
        b'{"schema":1,"saved_at":1,"buckets":[[["a"],1]]}',
        b"[" * 100_000,
    ],
)
async def test_a_damaged_file_is_said_and_set_aside(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "quotas.json"
    file.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        async with open_quotas(file) as quotas:
            quotas.take("alice", "runs", DAY)
    assert [each["event"] for each in logs] == ["quotas_forgotten"]
    assert (tmp_path / "quotas.damaged").read_bytes() == content
    async with open_quotas(file) as quotas:
        with pytest.raises(QuotaExceeded):
            quotas.take("alice", "runs", DAY)


async def test_a_place_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with open_quotas(tmp_path / "none" / "quotas.json") as quotas:
            quotas.take("alice", "runs", DAY)
    assert [each["event"] for each in logs] == ["quotas_not_kept"]


async def test_a_place_that_can_not_be_written_for_long_is_said_once_and_when_it_can_be_again(
    tmp_path: Path,
) -> None:
    file, tries = tmp_path / "none" / "quotas.json", 0

    def now() -> int:
        nonlocal tries
        tries += 1
        return 10**18

    async def two_more(quotas: Quotas) -> None:
        seen = tries
        while tries < seen + 2:
            quotas.take("alice", "runs", MANY)
            await anyio.wait_all_tasks_blocked()

    with structlog.testing.capture_logs() as logs, anyio.fail_after(10):
        async with open_quotas(file, every=0.001, now=now) as quotas:
            await two_more(quotas)
            assert [each["event"] for each in logs] == ["quotas_not_kept"]
            file.parent.mkdir()
            await two_more(quotas)
    assert [each["event"] for each in logs] == ["quotas_not_kept", "quotas_kept_again"]


async def test_who_has_used_up_a_quota_can_go_on_where_the_next_start_grants_more(tmp_path: Path) -> None:
    file, more = tmp_path / "quotas.json", {"runs": Limit(100, "here", 86400.0)}
    async with open_quotas(file) as quotas:
        quotas.take("alice", "runs", DAY)
    async with open_quotas(file) as quotas:
        for _ in range(99):
            quotas.take("alice", "runs", more)
        with pytest.raises(QuotaExceeded):
            quotas.take("alice", "runs", more)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 20), st.integers(0, 50)), max_size=30))
def test_buckets_that_are_restored_give_what_the_old_ones_would_have(
    takes: list[tuple[str, int, int]],
) -> None:
    now, rate = 0, Rate(10, 60, 20)
    old = Buckets(clock=lambda: now)
    for key, amount, pause in takes:
        now += pause * NANO
        old.take((key,), rate, amount)
    new = Buckets(clock=lambda: now)
    new.restore(old.left())
    for key in "ab":
        assert new.wait((key,), rate, 20) == old.wait((key,), rate, 20)
