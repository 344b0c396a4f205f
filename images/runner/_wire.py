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
LARGE = 8 * 1024


class Decoder:
    """Whole frames; but of DATA, which is a stream, each part as it comes: who passes it on keeps nothing."""

    def __init__(self):
        self.buffer = bytearray()
        self.kind = None
        self.channel = self.left = 0

    def feed(self, data):
        view = memoryview(data)
        frames = []
        while view:
            if self.kind is None:
                missing = HEADER.size - len(self.buffer)
                self.buffer += view[:missing]
                view = view[missing:]
                if len(self.buffer) < HEADER.size:
                    break
                self._begin()
            part, view = view[: self.left], view[self.left :]
            self.left -= len(part)
            if self.kind == DATA:
                if part:
                    frames.append((DATA, self.channel, part))
            else:
                self.buffer += part
            if self.left == 0:
                if self.kind != DATA:
                    frames.append((self.kind, self.channel, bytes(self.buffer)))
                    self.buffer.clear()
                self.kind = None
        return frames

    def _begin(self):
        self.left, self.kind, self.channel = HEADER.unpack(self.buffer)
        if self.left > MAX_FROM_HOST:
            raise ValueError("frame too long")
        self.buffer.clear()


class Writer:
    """Queues frames for a non-blocking descriptor; `pending` is in bytes."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = bytearray()

    @property
    def pending(self):
        return len(self.buffer)

    def send(self, kind, channel, payload=b""):
        head = HEADER.pack(len(payload), kind, channel)
        sent = self._write_now(head, payload) if len(payload) >= LARGE else 0
        self.buffer += head[sent:]
        self.buffer += memoryview(payload)[max(0, sent - len(head)) :]

    def _write_now(self, head, payload):
        """What is large is not queued if it need not wait: that would be a copy, and another."""
        try:
            return 0 if self.buffer else os.writev(self.fd, (head, payload))
        except BlockingIOError:
            return 0

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
