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
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= HEADER.size:
                length, kind, channel = HEADER.unpack_from(buffer, start)
                if length > self._max:
                    raise WireError(f"frame of {length} bytes, at most {self._max} are allowed")
                end = start + HEADER.size + length
                if len(buffer) < end:
                    return
                payload = bytes(buffer[start + HEADER.size : end])
                start = end
                try:
                    frame_type = Type(kind)
                except ValueError:
                    raise WireError(f"unknown frame type {kind}") from None
                yield Frame(frame_type, channel, payload)
        finally:
            del buffer[:start]
