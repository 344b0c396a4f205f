"""The frames of the runner's wire, sans I/O. `images/runner/README.md` documents the protocol.

    frame = length:u32 type:u8 channel:u32 payload      (big-endian; length counts the payload)

What comes from a sandbox is hostile: a frame that breaks the rules raises `WireError`,
and the only right answer to that is to destroy the sandbox.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

HEADER = struct.Struct(">IBI")
PROTOCOL_VERSION = 1
MAX_FROM_RUNNER = 64 * 1024
MAX_FROM_HOST = 8 * 1024 * 1024
WINDOW = 256 * 1024
"""Credit, in bytes, that each direction of a channel starts with."""
TUNNEL_WINDOW = 64 * 1024
"""The same for a tunnel."""
FIRST_TUNNEL = 1 << 31
"""Channels from here on are tunnels, which the runner numbers."""


class Type(IntEnum):
    """Frame types; each row of the runner's header comment is one of these."""

    SETUP = 1
    OPEN = 2
    DATA = 3
    END = 4
    CREDIT = 5
    CANCEL = 6
    INTERRUPT = 7
    HELLO = 16
    READY = 17
    STDOUT = 18
    STDERR = 19
    SIDE = 20
    CLOSE = 21
    ACCEPT = 22


class WireError(Exception):
    """The peer broke the protocol."""


@dataclass(frozen=True, slots=True)
class Frame:
    type: Type
    channel: int
    payload: bytes

    def json(self) -> dict[str, Any]:
        """The payload as a JSON object. Raises WireError if it is anything else."""
        try:
            value = json.loads(self.payload)
        except (ValueError, RecursionError) as error:
            raise WireError(f"{self.type.name} does not hold JSON") from error
        if not isinstance(value, dict):
            raise WireError(f"{self.type.name} does not hold an object")
        return value


def encode(type: Type, channel: int, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return HEADER.pack(len(payload), type, channel) + payload


def encode_json(type: Type, channel: int, value: dict[str, Any]) -> bytes:
    """One frame with a JSON object in it."""
    return encode(type, channel, json.dumps(value, separators=(",", ":")).encode())


def encode_credit(channel: int, amount: int) -> bytes:
    """Give the other side `amount` more bytes on `channel`."""
    return encode(Type.CREDIT, channel, amount.to_bytes(4, "big"))


class Decoder:
    """Turns received chunks into frames; holds at most one incomplete frame."""

    def __init__(self, max_payload: int = MAX_FROM_RUNNER) -> None:
        self._max = max_payload
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields every frame that is complete. Raises WireError on an oversized or unknown one."""
        view = memoryview(data)
        if self._buffer:
            view = self._fill(view)
            if len(self._buffer) != self._size(self._buffer):
                return
            with memoryview(self._buffer) as whole:
                frame = _frame(whole)
            self._buffer.clear()
            yield frame
        # What is whole here is copied once, and not by way of the buffer.
        while 0 < (size := self._size(view)) <= len(view):
            yield _frame(view[:size])
            view = view[size:]
        self._buffer += view

    def _size(self, begun: bytearray | memoryview) -> int:
        """Of the frame that begins here; 0 if that can't be told yet."""
        if len(begun) < HEADER.size:
            return 0
        length: int = HEADER.unpack_from(begun)[0]
        if length > self._max:
            raise WireError(f"frame of {length} bytes, at most {self._max} are allowed")
        return HEADER.size + length

    def _fill(self, view: memoryview) -> memoryview:
        """Move to the buffer what its frame lacks, as far as it is here. Returns the rest."""
        view = self._move(view, HEADER.size)
        return self._move(view, self._size(self._buffer))

    def _move(self, view: memoryview, size: int) -> memoryview:
        missing = max(0, size - len(self._buffer))
        self._buffer += view[:missing]
        return view[missing:]


def _frame(whole: memoryview) -> Frame:
    _length, kind, channel = HEADER.unpack_from(whole)
    try:
        frame_type = Type(kind)
    except ValueError:
        raise WireError(f"unknown frame type {kind}") from None
    return Frame(frame_type, channel, bytes(whole[HEADER.size :]))
