"""The frame codec: however the bytes arrive, the same frames come out, or a WireError."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server import wire
from sandbox_server.wire import (
    HEADER,
    MAX_FROM_HOST,
    MAX_FROM_RUNNER,
    Decoder,
    Frame,
    Type,
    WireError,
    encode,
    encode_credit,
    encode_json,
)

CHANNELS = st.integers(0, 2**32 - 1)
FRAMES = st.lists(st.builds(Frame, st.sampled_from(Type), CHANNELS, st.binary(max_size=300)), max_size=12)
KNOWN = frozenset(int(kind) for kind in Type)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """`data` in pieces; some may be empty."""
    edges = sorted(point % (len(data) + 1) for point in points)
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=30))
def test_any_chunking_of_any_frames_gives_the_same_frames(frames: list[Frame], points: list[int]) -> None:
    sent = b"".join(encode(frame.type, frame.channel, frame.payload) for frame in frames)
    decoder = Decoder()
    assert [frame for piece in cut(sent, points) for frame in decoder.feed(piece)] == frames


@given(FRAMES)
def test_a_frame_comes_out_with_its_last_byte_and_not_before(frames: list[Frame]) -> None:
    decoder = Decoder()
    for frame in frames:
        sent = encode(frame.type, frame.channel, frame.payload)
        assert list(decoder.feed(sent[:-1])) == []
        assert list(decoder.feed(sent[-1:])) == [frame]


@given(st.integers(0, 255).filter(lambda kind: kind not in KNOWN), CHANNELS, st.binary(max_size=50))
def test_an_unknown_type_is_a_wire_error(kind: int, channel: int, payload: bytes) -> None:
    with pytest.raises(WireError):
        list(Decoder().feed(HEADER.pack(len(payload), kind, channel) + payload))


@given(st.integers(MAX_FROM_RUNNER + 1, 2**32 - 1), st.sampled_from(Type))
def test_an_oversized_frame_is_refused_by_its_header_alone(length: int, kind: Type) -> None:
    with pytest.raises(WireError):
        list(Decoder().feed(HEADER.pack(length, kind, 1)))


def test_the_largest_frame_passes() -> None:
    payload = b"x" * MAX_FROM_RUNNER
    assert list(Decoder().feed(encode(Type.STDOUT, 1, payload))) == [Frame(Type.STDOUT, 1, payload)]


def test_good_frames_before_a_bad_one_are_still_given() -> None:
    frames = Decoder().feed(encode(Type.STDOUT, 1, b"good") + b"\xff" * HEADER.size)
    assert next(frames).payload == b"good"
    with pytest.raises(WireError):
        next(frames)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_hostile_bytes_give_frames_or_a_wire_error_and_nothing_else(chunks: list[bytes]) -> None:
    decoder = Decoder(max_payload=100)
    try:
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                assert len(frame.payload) <= 100
    except WireError:
        pass


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.none())))
def test_objects_survive_the_wire(value: dict[str, object]) -> None:
    (frame,) = Decoder().feed(encode_json(Type.READY, 0, value))
    assert frame.json() == value


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"1", b"null", b"\xff", b"\x00", b"[" * 60_000, b"{" + b'"a":[' * 10_000, b"9" * 5000],
    ids=["empty", "cut", "list", "number", "null", "not-utf8", "nul", "deep", "deeper", "long-number"],
)
def test_what_is_not_a_json_object_is_a_wire_error(payload: bytes) -> None:
    with pytest.raises(WireError):
        Frame(Type.READY, 0, payload).json()


@given(CHANNELS, st.integers(0, 2**32 - 1))
def test_credit_is_four_bytes(channel: int, amount: int) -> None:
    (frame,) = Decoder().feed(encode_credit(channel, amount))
    assert (frame.type, frame.channel) == (Type.CREDIT, channel)
    assert int.from_bytes(frame.payload, "big") == amount
    assert len(frame.payload) == 4


def test_lone_surrogates_cross_as_escapes() -> None:
    sent = encode_json(Type.OPEN, 1, {"code": "\ud800"})
    assert json.loads(sent[HEADER.size :]) == {"code": "\ud800"}


# --- the same codec on the other side: it shares no code, because it goes into the images


def runner_wire() -> ModuleType:
    path = Path(__file__).parent.parent / "images" / "runner" / "_wire.py"
    spec = importlib.util.spec_from_file_location("runner_wire", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = runner_wire()


def test_both_sides_mean_the_same() -> None:
    assert {kind.name: kind.value for kind in Type} == {
        kind.name: getattr(theirs, kind.name) for kind in Type
    }
    assert (theirs.WINDOW, theirs.MAX_PAYLOAD) == (wire.WINDOW, MAX_FROM_RUNNER)
    assert theirs.MAX_FROM_HOST == MAX_FROM_HOST


def streamed(frames: Iterable[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """DATA is a stream: what comes one after the other is one, and nothing is nothing."""
    joined: list[tuple[int, int, bytes]] = []
    for kind, channel, payload in frames:
        if kind == Type.DATA and joined and joined[-1][:2] == (kind, channel):
            joined[-1] = kind, channel, joined[-1][2] + payload
        elif kind != Type.DATA or payload:
            joined.append((kind, channel, bytes(payload)))
    return joined


@given(FRAMES, st.lists(st.integers(0, 10_000), max_size=30))
def test_the_runner_reads_what_we_write(frames: list[Frame], points: list[int]) -> None:
    sent = b"".join(encode(frame.type, frame.channel, frame.payload) for frame in frames)
    decoder = theirs.Decoder()
    received = [each for piece in cut(sent, points) for each in decoder.feed(piece)]
    assert streamed(received) == streamed((frame.type, frame.channel, frame.payload) for frame in frames)


def test_the_runner_passes_on_a_part_of_data_before_the_rest_has_come() -> None:
    sent = encode(Type.DATA, 7, b"x" * 1000)
    assert theirs.Decoder().feed(sent[:500]) == [(Type.DATA, 7, b"x" * (500 - HEADER.size))]


@given(st.integers(MAX_FROM_HOST + 1, 2**32 - 1))
def test_the_runner_refuses_what_is_too_long(length: int) -> None:
    with pytest.raises(ValueError, match="too long"):
        theirs.Decoder().feed(HEADER.pack(length, Type.DATA, 1))


def test_we_read_what_the_runner_writes_even_if_we_read_slowly() -> None:
    """Its writer never blocks: what the pipe does not take waits in order."""
    reader, writer_end = os.pipe()
    os.set_blocking(writer_end, False)
    writer = theirs.Writer(writer_end)
    decoder = Decoder()
    frames: list[Frame] = []
    try:
        for number in range(40):
            writer.send(Type.STDOUT, number, bytes([number]) * 60_000)
            writer.send_credit(number, number)
            writer.send_json(Type.CLOSE, number, {"number": number})
            writer.flush()
        assert writer.pending > 0
        while len(frames) < 120:
            frames += decoder.feed(os.read(reader, 50_000))
            writer.flush()
    finally:
        os.close(reader)
        os.close(writer_end)
    assert writer.pending == 0
    for number in range(40):
        output, credit, close = frames[3 * number : 3 * number + 3]
        assert output == Frame(Type.STDOUT, number, bytes([number]) * 60_000)
        assert (credit.type, int.from_bytes(credit.payload, "big")) == (Type.CREDIT, number)
        assert close.json() == {"number": number}
