"""The frame codec: however the bytes arrive, the same frames come out, or a WireError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.wire import (
    HEADER,
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
