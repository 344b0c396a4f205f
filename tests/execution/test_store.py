"""The store: what it keeps, for whom, how much and how long."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox_server.errors import ConfigError
from sandbox_server.execution.blobs import clear
from sandbox_server.execution.spool import Spool
from sandbox_server.execution.store import Deposit, Store

KIB = 1024


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(directory: Path | None, **changes: Any) -> AsyncIterator[Store]:
    facts: dict[str, Any] = {"total": 64 * KIB, "ttl": 60.0} | changes
    with anyio.fail_after(20):
        async with Store(directory, **facts) as store:
            yield store


async def keep(store: Store, owner: str, data: bytes, path: str = "a") -> Deposit:
    async with store.deposit(owner) as deposit:
        file = store.new_file(deposit, len(data))
        assert file is not None
        assert await file.append(data)
        deposit.files[path] = file.blob
    return deposit


async def content(store: Store, deposit: Deposit, path: str = "a") -> bytes | None:
    return await store.read(deposit.files[path], 0, 10**9)


async def test_bytes_come_back_and_lie_under_names_of_our_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        deposit = await keep(store, "me", b"secret", "../../etc/passwd\n")
        assert await content(store, deposit, "../../etc/passwd\n") == b"secret"
        (file,) = (tmp_path / "store").iterdir()
        assert len(file.name) == 32
        assert set(file.name) <= set("0123456789abcdef")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


async def test_a_store_without_a_place_of_its_own_makes_one_and_removes_it() -> None:
    async with opened(None) as store:
        await keep(store, "me", b"x")
        path = store._blobs.path
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert not path.exists()


async def test_what_a_killed_server_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "left").write_text("x")
    async with opened(tmp_path / "store"):
        assert list((tmp_path / "store").iterdir()) == []


async def test_a_store_that_is_somebody_elses_link_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("x")
    (tmp_path / "store").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="store"):
        async with opened(tmp_path / "store"):
            pass
    assert (tmp_path / "victim" / "file").exists()


def test_clearing_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    clear(tmp_path / "store")
    assert not (tmp_path / "store").exists()


async def test_only_its_owner_finds_a_deposit() -> None:
    async with opened(None) as store:
        deposit = await keep(store, "me", b"x")
        assert store.find("me", deposit.id) is deposit
        assert store.find("you", deposit.id) is None
        assert store.find("me", "0" * 32) is None
        assert store.of("you") == []


async def test_a_deposit_ends_with_its_time_and_so_do_its_bytes(tmp_path: Path) -> None:
    time = Time()
    async with opened(tmp_path / "store", clock=time) as store:
        old = await keep(store, "me", b"x")
        time.now += 59.0
        new = await keep(store, "me", b"y")
        assert store.find("me", old.id) is old
        time.now += 1.0
        assert store.find("me", old.id) is None
        assert store.of("me") == [new]
        await store.expire()
        assert len(list((tmp_path / "store").iterdir())) == 1
        assert store.taken == 4 * KIB
        assert await content(store, old) is None


async def test_an_owner_has_half_and_its_oldest_gives_way(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        deposits = [await keep(store, "me", b"x" * 16 * KIB) for _ in range(3)]
        assert store.of("me") == deposits[1:]
        assert store.taken == 32 * KIB
        assert await content(store, deposits[2]) == b"x" * 16 * KIB
        await store.expire()
        assert len(list((tmp_path / "store").iterdir())) == 2


async def test_when_all_is_taken_the_greatest_owner_gives_way() -> None:
    async with opened(None) as store:
        greatest = [await keep(store, "greatest", b"x" * 16 * KIB) for _ in range(2)]
        small = await keep(store, "small", b"x" * 8 * KIB)
        middle = await keep(store, "middle", b"x" * 16 * KIB)
        await keep(store, "new", b"x" * 12 * KIB)
        assert store.of("greatest") == greatest[1:]
        assert (store.of("small"), store.of("middle")) == ([small], [middle])
        assert store.taken <= 64 * KIB


async def test_who_has_the_most_in_runs_that_go_on_keeps_nobody_out() -> None:
    """What a run has not left yet can't give way: then the next greatest does."""
    async with opened(None) as store, store.deposit("busy") as one, store.deposit("busy") as two:
        assert store.claim(one, 16 * KIB) + store.claim(two, 16 * KIB) == 32 * KIB
        old = await keep(store, "hoarder", b"x" * 16 * KIB)
        new = await keep(store, "hoarder", b"x" * 16 * KIB)
        await keep(store, "newcomer", b"x" * 16 * KIB)
        assert (store.find("hoarder", old.id), store.find("hoarder", new.id)) == (None, new)


async def test_one_run_has_a_quarter_and_a_file_is_kept_whole_or_not_at_all() -> None:
    async with opened(None) as store, store.deposit("me") as deposit:
        assert store.new_file(deposit, 16 * KIB + 1) is None
        assert store.new_file(deposit, 12 * KIB) is not None
        assert store.new_file(deposit, 5 * KIB) is None
        assert store.new_file(deposit, 4 * KIB) is not None


async def test_empty_files_have_their_price_too() -> None:
    async with opened(None) as store, store.deposit("me") as deposit:
        assert [store.new_file(deposit, 0) is None for _ in range(5)] == [False] * 4 + [True]


async def test_a_store_of_no_size_keeps_nothing() -> None:
    async with opened(None, total=0) as store:
        async with store.deposit("me") as deposit:
            assert store.new_file(deposit, 0) is None
            spool = Spool(store, deposit, "stdout")
            spool.feed(b"x")
            await spool.flush()
        assert spool.kept == 0
        assert store.of("me") == []


async def test_what_a_call_left_that_failed_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        with contextlib.suppress(RuntimeError):
            async with store.deposit("me") as deposit:
                file = store.new_file(deposit, 1)
                assert file is not None
                assert await file.append(b"x")
                raise RuntimeError
        assert store.of("me") == []
        await store.expire()
        assert store.taken == 0
        assert list((tmp_path / "store").iterdir()) == []


async def test_bytes_that_arrive_after_their_call_was_given_up_do_not_stay(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        with contextlib.suppress(RuntimeError):
            async with store.deposit("me") as deposit:
                file = store.new_file(deposit, 1)
                raise RuntimeError
        assert file is not None
        await file.append(b"x")
        await store.expire()
        assert list((tmp_path / "store").iterdir()) == []
        assert store.claim(deposit, 1) == 0


async def test_a_spool_keeps_the_beginning_as_far_as_there_is_room() -> None:
    async with opened(None) as store:
        async with store.deposit("me") as deposit:
            spool = Spool(store, deposit, "stdout")
            for number in range(10):
                spool.feed(b"%d" % number * 4 * KIB)
                await spool.flush()
        assert spool.kept == 16 * KIB
        blob = store.of("me")[0].streams["stdout"]
        assert await store.read(blob, 0, 10**9) == b"".join(b"%d" % n * 4 * KIB for n in range(4))


async def test_tiny_outputs_are_charged_by_the_block() -> None:
    async with opened(None) as store:
        for _ in range(20):
            async with store.deposit("me") as deposit:
                spool = Spool(store, deposit, "stdout")
                for _ in range(3):
                    spool.feed(b"x")
                    await spool.flush()
                assert spool.kept == 3
        assert len(store.of("me")) == 8
        assert store.taken == 32 * KIB


async def test_a_disk_that_is_full_costs_the_bytes_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as store:
        (tmp_path / "store").rmdir()  # as good as full: nothing can be written
        async with store.deposit("me") as deposit:
            spool = Spool(store, deposit, "stdout")
            spool.feed(b"x")
            await spool.flush()
            spool.feed(b"y")
            await spool.flush()
        assert spool.kept == 0
        assert store.of("me") == []
        (tmp_path / "store").mkdir()
