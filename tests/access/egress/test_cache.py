"""Files of packages that are kept on the host: which may be, whose word counts, how many there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox_server.access.egress.cache import FileCache
from tests.access.egress.world import SITE, Origin, World, rest, status, tls, until

pytestmark = pytest.mark.anyio

BODY = b"wheel" * 2000
PATH = "/packages/six-1.17.0-py2.py3-none-any.whl"


def answer(*lines: str, body: bytes = BODY, code: int = 200, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [f"HTTP/1.1 {code} X", *lines, *([f"Content-Length: {size}"] if size >= 0 else [])]
    return "\r\n".join([*head, "", ""]).encode() + body


class Mirror:
    """The host of files, opened by the proxy, with a cache in front of it."""

    def __init__(self, world: World, origin: Origin, cache: FileCache) -> None:
        self.world, self.origin, self.cache = world, origin, cache

    async def get(self, path: str = PATH, *lines: str) -> bytes:
        async with self.world.tunnel(SITE, self.origin.port) as stream:
            inner = await tls(stream, SITE, self.world.trusting(self.world.authority))
            head = [f"GET {path} HTTP/1.1", f"Host: {SITE}:{self.origin.port}", "Connection: close", *lines]
            await inner.send("\r\n".join([*head, "", ""]).encode())
            return await rest(inner)

    @property
    def asked(self) -> int:
        return sum(data.startswith(b"GET ") for data in self.origin.seen)


async def mirror(world: World, directory: Path, reply: bytes, size: int = 2**20) -> Mirror:
    origin = await world.origin(tls=SITE, answer=reply)
    world.allow(SITE, origin.port, terminate=True, cache=True)
    cache = world.gateway.cache = FileCache(directory / "files", size)
    return Mirror(world, origin, cache)


async def test_the_second_time_a_file_comes_from_the_host(world: World, tmp_path: Path) -> None:
    place = await mirror(world, tmp_path, answer())
    first, second = await place.get(), await place.get()
    assert status(first) == status(second) == 200
    assert first.endswith(b"\r\n\r\n" + BODY)
    assert second.endswith(b"\r\n\r\n" + BODY)
    assert place.asked == 1
    assert (place.cache.misses, place.cache.hits) == (1, 1)
    assert [record.cached for record in world.records if record.method] == [False, True]


async def test_a_server_sees_nothing_of_the_program_when_its_answer_is_kept(
    world: World, tmp_path: Path
) -> None:
    place = await mirror(world, tmp_path, answer())
    await place.get(PATH, "X-Forwarded-Host: evil.example", "Accept: text/evil", "User-Agent: evil")
    assert b"evil" not in b"".join(place.origin.seen)


@pytest.mark.parametrize(
    "line", ["Authorization: Basic eDp5", "Cookie: a=b", "Range: bytes=0-9", "Content-Length: 0"]
)
async def test_requests_that_are_somebodys_own_are_neither_answered_from_it_nor_kept(
    world: World, tmp_path: Path, line: str
) -> None:
    place = await mirror(world, tmp_path, answer())
    for _ in range(2):
        assert status(await place.get(PATH, line)) == 200
    assert place.asked == 2
    await place.get()
    assert place.asked == 3


@pytest.mark.parametrize(
    "reply",
    [
        answer(code=404),
        answer(code=206),
        answer("Set-Cookie: a=b"),
        answer("Cache-Control: private, max-age=9"),
        answer("Cache-Control: no-store"),
        answer("Content-Encoding: gzip"),
        answer(length=len(BODY) + 1),
        answer(length=-1),
        answer(body=b""),
        answer(body=b"x" * 300_000),
    ],
    ids=["404", "206", "cookie", "private", "no-store", "coded", "cut", "endless", "empty", "large"],
)
async def test_only_whole_answers_for_everybody_are_kept(world: World, tmp_path: Path, reply: bytes) -> None:
    place = await mirror(world, tmp_path, reply)
    for _ in range(2):
        await place.get()
    assert place.asked == 2
    assert list((tmp_path / "files").glob("*")) == []


@pytest.mark.parametrize("path", ["/simple/six/", "/six.whl?token=1", "/six.zip", "/x.tgz/y"])
async def test_only_files_that_never_change_are_kept(world: World, tmp_path: Path, path: str) -> None:
    place = await mirror(world, tmp_path, answer())
    for _ in range(2):
        assert status(await place.get(path)) == 200
    assert place.asked == 2


async def test_what_the_policy_denies_is_not_given_from_the_store_either(
    world: World, tmp_path: Path
) -> None:
    place = await mirror(world, tmp_path, answer())
    await place.get("/secret.whl")
    assert place.asked == 0
    await place.get()
    del world.rules[SITE, place.origin.port]
    async with world.client() as stream:
        await stream.send(f"CONNECT {SITE}:{place.origin.port} HTTP/1.1\r\n\r\n".encode())
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 4")


async def test_a_file_of_an_address_that_one_rule_opens_is_not_given_by_another_that_does_not(
    world: World, tmp_path: Path
) -> None:
    place = await mirror(world, tmp_path, answer())
    assert status(await place.get()) == 200
    world.allow(SITE, place.origin.port, terminate=True, cache=True, addresses=())
    assert status(await place.get()) == 403
    assert world.records[-2].rule == "floor.address"
    assert place.asked == 1


async def test_the_store_keeps_within_its_size_and_gives_up_what_was_not_used_for_longest(
    tmp_path: Path,
) -> None:
    cache = FileCache(tmp_path, size=40)
    for name in "abcd":
        await keep(cache, name, b"x" * 10)
    for age, name in enumerate("dacb"):
        os.utime(cache._path(name), (age, age))
    await keep(cache, "e", b"x" * 10)
    assert [name for name in "abcde" if cache._path(name).exists()] == ["a", "b", "c", "e"]


async def test_what_is_on_its_way_into_the_store_is_bounded_too(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, size=400)
    for _ in range(3):
        async with cache.writer("a") as one, cache.writer("b") as two, cache.writer("c") as three:
            kept = []
            for writer in (one, two, three):
                assert writer is not None
                await writer.begin(200, [(b"content-length", b"50")])
                kept.append(len(list(tmp_path.iterdir())))
            assert kept == [1, 2, 2]


async def test_a_file_that_lost_its_content_is_fetched_anew(world: World, tmp_path: Path) -> None:
    """As the host's file system may do to it when the power fails."""
    place = await mirror(world, tmp_path, answer())
    await place.get()
    (kept,) = (tmp_path / "files").iterdir()
    os.truncate(kept, 0)
    assert (await place.get()).endswith(b"\r\n\r\n" + BODY)
    assert place.asked == 2
    assert kept.read_bytes() == BODY


async def test_an_answer_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, size=400)
    async with cache.writer("a") as writer:
        assert writer is not None
        await writer.begin(200, [(b"content-length", b"10")])
        await writer.write(b"12345")
    assert list(tmp_path.iterdir()) == []


async def keep(cache: FileCache, url: str, data: bytes) -> None:
    async with cache.writer(url) as writer:
        assert writer is not None
        await writer.begin(200, [(b"content-length", str(len(data)).encode())])
        await writer.write(data)
        await writer.finish()
