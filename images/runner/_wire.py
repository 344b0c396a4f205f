"""Frames: see README.md."""

import json
import os
import struct

HEADER = struct.Struct(">IBI")
SETUP, OPEN, DATA, END, CREDIT, CANCEL, INTERRUPT = 1, 2, 3, 4, 5, 6, 7
HELLO, READY, STDOUT, STDERR, SIDE, CLOSE, ACCEPT = 16, 17, 18, 19, 20, 21, 22
WINDOW = 256 * 1024
TUNNEL_WINDOW = 64 * 1024
FIRST_TUNNEL = 1 << 31
MAX_PAYLOAD = 64 * 1024
MAX_FROM_HOST = 8 * 1024 * 1024


class Decoder:
    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        self.buffer += data
        start = 0
        frames = []
        while len(self.buffer) - start >= HEADER.size:
            length, kind, channel = HEADER.unpack_from(self.buffer, start)
            if length > MAX_FROM_HOST:
                raise ValueError("frame too long")
            end = start + HEADER.size + length
            if len(self.buffer) < end:
                break
            with memoryview(self.buffer) as view:  # a slice of the buffer would be one copy more
                frames.append((kind, channel, bytes(view[start + HEADER.size : end])))
            start = end
        del self.buffer[:start]
        return frames


class Writer:
    """Queues frames for a non-blocking descriptor; `pending` is in bytes."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = bytearray()

    @property
    def pending(self):
        return len(self.buffer)

    def send(self, kind, channel, payload=b""):
        self.buffer += HEADER.pack(len(payload), kind, channel)
        self.buffer += payload

    def send_json(self, kind, channel, value):
        self.send(kind, channel, json.dumps(value).encode())

    def send_credit(self, channel, amount):
        self.send(CREDIT, channel, amount.to_bytes(4, "big"))

    def flush(self):
        while self.buffer:
            try:
                sent = os.write(self.fd, memoryview(self.buffer)[: 256 * 1024])
            except BlockingIOError:
                return
            del self.buffer[:sent]
