"""Servers that send too much, too slowly, or what can be read in two ways."""

from __future__ import annotations

import gzip
import time
import zlib
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.access.http.head import HeadReader
from sandbox_server.access.http.hop import MAX_PIECES
from sandbox_server.access.http.markdown import Markdown
from sandbox_server.errors import UpstreamFailed
from sandbox_server.guards.web import WebLimits
from tests.access.http.lab import HOST, Seen, allow, answer, fetch, raw, serve

OK = b"HTTP/1.1 200 OK\r\n"

REFUSED: dict[str, tuple[str, bytes]] = {
    "both lengths": (
        "web.protocol",
        OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "both, other order": (
        "web.protocol",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ),
    "two lengths": ("web.protocol", OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
    "the same length twice": ("web.protocol", OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
    "a list of lengths": ("web.protocol", OK + b"Content-Length: 4, 5\r\n\r\nabcde"),
    "a signed length": ("web.protocol", OK + b"Content-Length: +4\r\n\r\nabcd"),
    "a hexadecimal length": ("web.protocol", OK + b"Content-Length: 0x4\r\n\r\nabcd"),
    "another transfer coding": ("web.protocol", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (
        "web.protocol",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "an obscured chunked": ("web.protocol", OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "a folded line": ("web.protocol", OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    "a folded first line": ("web.protocol", OK + b" X: a\r\nContent-Length: 0\r\n\r\n"),
    "a NUL": ("web.protocol", OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"),
    "a bare line feed": ("web.protocol", OK + b"X: a\nY: b\r\nContent-Length: 0\r\n\r\n"),
    "a bare carriage return": ("web.protocol", OK + b"X: a\rY: b\r\nContent-Length: 0\r\n\r\n"),
    "only line feeds": ("web.protocol", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    "a space before the colon": ("web.protocol", OK + b"Content-Length : 0\r\n\r\n"),
    "a line without a colon": ("web.protocol", OK + b"nonsense\r\n\r\n"),
    "HTTP/0.9": ("web.protocol", b"<html>hello</html>\r\n\r\n"),
    "HTTP/2": ("web.protocol", b"HTTP/2 200 OK\r\n\r\n"),
    "the preface of HTTP/2": ("web.protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "another protocol": ("web.protocol", b"SSH-2.0-OpenSSH\r\n\r\n"),
    "TLS": ("web.protocol", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\r\n\r\n"),
    "no status": ("web.protocol", b"HTTP/1.1 OK\r\n\r\n"),
    "a status of 999": ("web.protocol", b"HTTP/1.1 999 X\r\n\r\n"),
    "a status of 000": ("web.protocol", b"HTTP/1.1 000 X\r\n\r\n"),
    "an upgrade": ("web.protocol", b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n"),
    "interim responses without end": ("web.protocol", b"HTTP/1.1 103 Hints\r\n\r\n" * 50),
    "a folded line in an interim response": (
        "web.protocol",
        b"HTTP/1.1 100 C\r\nX: a\r\n b\r\n\r\n" + OK + b"\r\n",
    ),
    "nothing": ("web.protocol", b""),
    "half a head": ("web.protocol", OK + b"X: a\r\n"),
    "huge headers": ("web.headers", OK + b"X: " + b"a" * 100_000 + b"\r\n\r\n"),
    "headers without end": ("web.headers", OK + b"X: " + b"a" * 1_000_000),
    "10,000 headers": ("web.headers", OK + b"X:a\r\n" * 10_000 + b"\r\n"),
    "101 headers": ("web.headers", OK + b"".join(b"X%d: a\r\n" % n for n in range(101)) + b"\r\n"),
    "brotli": ("web.encoding", OK + b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx"),
    "zstd": ("web.encoding", OK + b"Content-Encoding: zstd\r\nContent-Length: 1\r\n\r\nx"),
    "nested encodings": ("web.encoding", OK + b"Content-Encoding: gzip, gzip\r\nContent-Length: 1\r\n\r\nx"),
    "two encodings": ("web.protocol", OK + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n\r\n"),
    "no gzip at all": ("web.encoding", OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"),
    "no deflate at all": (
        "web.encoding",
        OK + b"Content-Encoding: deflate\r\nContent-Length: 5\r\n\r\nhello",
    ),
    "more after the gzip": (
        "web.protocol",
        OK
        + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
        + gzip.compress(b"a")
        + gzip.compress(b"b"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_an_answer_that_is_not_taken_is_refused_with_its_reason(what: str) -> None:
    reason, data = REFUSED[what]
    async with serve(raw(data)) as server:
        with pytest.raises(UpstreamFailed) as refused:
            await fetch(f"http://{HOST}:{server.port}/")
    assert refused.value.reason == reason
    assert not refused.value.retry_safe, "the request was sent"


async def test_interim_responses_and_trailers_are_ordinary() -> None:
    data = b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n" + OK + b"Transfer-Encoding: chunked\r\n\r\n"
    async with serve(raw(data + b"2\r\nok\r\n0\r\nX-Trailer: a\r\nSet-Cookie: a=b\r\n\r\n")) as server:
        result = await fetch(f"http://{HOST}:{server.port}/")
    assert (result.status, result.body.cut, result.headers) == (200, "", ())
    assert result.body.text == "ok"


async def test_what_follows_a_response_is_nobodys() -> None:
    poison = OK + b"Content-Length: 6\r\n\r\npoison"
    async with serve(raw(OK + b"Content-Length: 2\r\n\r\nok" + poison)) as server:
        first = await fetch(f"http://{HOST}:{server.port}/")
        second = await fetch(f"http://{HOST}:{server.port}/", principal="bob")
    assert (first.body.text, second.body.text, server.connections) == ("ok", "ok", 2)


@pytest.mark.parametrize(
    "tail", [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n50\r\n"]
)
async def test_a_body_that_ends_early_is_given_as_far_as_it_came(tail: bytes) -> None:
    async with serve(raw(OK + tail)) as server:
        body = (await fetch(f"http://{HOST}:{server.port}/")).body
    assert (body.text, body.cut) == ("half", "the connection ended before the body did")


async def test_a_compressed_body_that_ends_early_says_so() -> None:
    packed = gzip.compress(b"hello" * 1000)[:-12]
    async with serve(answer(packed, Content_Encoding="gzip")) as server:
        body = (await fetch(f"http://{HOST}:{server.port}/")).body
    assert body.cut == "the compressed body ends too early"


def bomb(bits: int) -> bytes:
    """100 MB of zeros in 100 KB."""
    packer = zlib.compressobj(9, wbits=bits)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()


@pytest.mark.parametrize(("name", "bits"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
async def test_a_bomb_is_defused_at_the_limit(name: str, bits: int) -> None:
    async with serve(answer(bomb(bits), Content_Encoding=name, Content_Type="image/x")) as server:
        limits = WebLimits(decoded=300_000, shown=10)
        result = await fetch(f"http://{HOST}:{server.port}/", allow(limits=limits))
    assert result.body.cut == "only 300,000 decompressed bytes are taken"
    assert result.received < 200_000


async def endless(seen: Seen, stream: ByteStream) -> None:
    await stream.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send(b"2000\r\n" + b"a" * 0x2000 + b"\r\n")


async def test_a_body_without_end_is_cut() -> None:
    async with serve(endless) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", allow(limits=WebLimits(body=100_000, shown=5)))
    assert (result.body.text, result.received) == ("aaaaa", 100_000)
    assert result.body.cut == "only 100,000 bytes are taken"


async def test_a_length_beyond_the_limit_is_cut_too() -> None:
    async with serve(answer(b"a" * 50_000, Content_Length="99999999999999")) as server:
        result = await fetch(f"http://{HOST}:{server.port}/", allow(limits=WebLimits(body=100)))
    assert (result.body.text, result.received) == ("a" * 100, 100)


async def test_a_body_in_single_bytes_is_cut_before_it_costs_more_than_it_is_worth() -> None:
    async def crumbs(seen: Seen, stream: ByteStream) -> None:
        await stream.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.send(b"1\r\na\r\n" * 1000)

    async with serve(crumbs) as server:
        began = time.process_time()
        result = await fetch(f"http://{HOST}:{server.port}/")
    assert result.received == MAX_PIECES + 1
    assert "pieces" in result.body.cut
    assert time.process_time() - began < 5


async def drip(stream: ByteStream, first: bytes, then: bytes) -> None:
    await stream.send(first)
    for _ in count():
        await anyio.sleep(0.01)
        await stream.send(then)


SLOW: list[tuple[str, bytes, bytes, dict[str, Any]]] = [
    ("web.timeout", b"", b"", {"first_byte": 0.1}),
    ("web.timeout", OK, b"X: a\r\n", {"first_byte": 0.1}),
    ("web.timeout", b"", b"HTTP/1.1 100 Continue\r\n\r\n"[:1], {"first_byte": 0.1}),
    ("web.slow", OK + b"Content-Length: 999\r\n\r\n", b"a", {"min_rate": 10_000, "grace": 0.1}),
    (
        "web.slow",
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        b"1\r\na\r\n",
        {"min_rate": 10_000, "grace": 0.1},
    ),
    ("web.slow", OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", {"min_rate": 10_000, "grace": 0.1}),
    ("web.timeout", OK + b"Content-Length: 999\r\n\r\n", b"a", {"total": 0.2, "min_rate": 1}),
    ("web.timeout", OK + b"Content-Length: 999\r\n\r\n", b"", {"total": 0.2, "min_rate": 1}),
]


@pytest.mark.parametrize(("reason", "first", "then", "limits"), SLOW)
async def test_a_server_that_takes_its_time_is_left(
    reason: str, first: bytes, then: bytes, limits: dict[str, Any]
) -> None:
    async def script(seen: Seen, stream: ByteStream) -> None:
        await drip(stream, first, then)

    async with serve(script) as server:
        began = anyio.current_time()
        with pytest.raises(UpstreamFailed) as late:
            await fetch(f"http://{HOST}:{server.port}/", allow(limits=WebLimits(**limits)))
    assert late.value.reason == reason
    assert anyio.current_time() - began < 3


async def test_without_a_least_rate_a_slow_answer_is_waited_for() -> None:
    async def script(seen: Seen, stream: ByteStream) -> None:
        await stream.send(OK + b"Content-Length: 2\r\n\r\na")
        await anyio.sleep(0.1)
        await stream.send(b"b")

    async with serve(script) as server:
        limits = WebLimits(min_rate=0, grace=0.01)
        result = await fetch(f"http://{HOST}:{server.port}/", allow(limits=limits))
    assert result.body.text == "ab"


async def test_the_callers_timeout_is_one_more_bound() -> None:
    async def silent(seen: Seen, stream: ByteStream) -> None:
        await anyio.sleep_forever()

    async with serve(silent) as server:
        with pytest.raises(UpstreamFailed, match=r"No complete answer within 0\.1 s") as late:
            await fetch(f"http://{HOST}:{server.port}/", timeout=0.1)
    assert late.value.reason == "web.timeout"


async def test_redirects_share_one_total_time() -> None:
    async def slow(seen: Seen, stream: ByteStream) -> None:
        await anyio.sleep(0.08)
        await stream.send(b"HTTP/1.1 302 X\r\nLocation: /\r\n\r\n")

    async with serve(slow) as server:
        with pytest.raises(UpstreamFailed) as late:
            await fetch(f"http://{HOST}:{server.port}/", allow(limits=WebLimits(total=0.2, redirects=50)))
    assert late.value.reason == "web.timeout"
    assert server.connections < 5


async def test_a_server_that_does_not_read_is_left() -> None:
    async def script(seen: Seen, stream: ByteStream) -> None:
        await anyio.sleep_forever()

    async with serve(script) as server:
        with pytest.raises(UpstreamFailed):
            await fetch(
                f"http://{HOST}:{server.port}/",
                allow(limits=WebLimits(total=0.3, request_body=50_000_000)),
                method="POST",
                body=bytes(40_000_000),
            )


async def test_a_cancelled_call_closes_its_connection() -> None:
    closed = anyio.Event()
    waiting = anyio.Event()

    async def script(seen: Seen, stream: ByteStream) -> None:
        waiting.set()
        try:
            await stream.receive()
        except anyio.EndOfStream:
            closed.set()

    async with serve(script) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, f"http://{HOST}:{server.port}/")
        await waiting.wait()
        tasks.cancel_scope.cancel()
        with anyio.fail_after(5, shield=True):
            await closed.wait()


async def test_html_that_takes_for_ever_to_convert_is_given_up() -> None:
    with pytest.raises(UpstreamFailed, match="not converted within") as late:
        await Markdown(timeout=0.01).convert("<p>" * 1000)
    assert late.value.reason == "web.markdown"


async def test_pages_that_take_for_ever_hold_up_nobody_elses() -> None:
    markdown, given_up = Markdown(), 0

    async def hog() -> None:
        nonlocal given_up
        with pytest.raises(UpstreamFailed):
            await markdown.convert("<p>hello</p>" * 170_000, "mallory")
        given_up += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(hog)
        await anyio.wait_all_tasks_blocked()
        assert await markdown.convert("<p>hi</p>", "bob") == "hi\n"
        assert given_up == 0
        tasks.cancel_scope.cancel()


async def test_html_that_is_nested_without_end_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(UpstreamFailed, match="HTML"):
        await Markdown(timeout=10).convert("<div>" * 100_000)


async def test_html_beyond_the_limit_is_not_even_tried() -> None:
    with pytest.raises(UpstreamFailed, match="are converted"):
        await Markdown().convert("a" * 3_000_000)


@given(st.binary(max_size=300), st.lists(st.integers(1, 60)))
def test_a_head_reads_the_same_however_it_is_cut_into_pieces(data: bytes, cuts: list[int]) -> None:
    data = OK + data + b"\r\n\r\nrest"
    assert _outcome([data]) == _outcome(_pieces(data, cuts))


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    return [*pieces, data]


def _outcome(pieces: list[bytes]) -> str:
    reader = HeadReader(max_bytes=10_000, max_lines=20)
    try:
        for piece in pieces:
            if reader.done:
                break
            reader.feed(piece)
    except UpstreamFailed as error:
        return error.message
    return "done" if reader.done else "more"
