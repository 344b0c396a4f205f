"""The first message of TLS, read without answering it: which name is asked for, and is it all there is?

A parser of our own because nothing else is needed of TLS here: bounded, linear in what comes however it is
cut into records and packets, and strict, for what two parsers read differently is how names are smuggled.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_MESSAGE = 16 * 1024
MAX_BYTES = 64 * 1024
"""Of records that hold it, for a message may come in crumbs."""
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME = 0
_ENCRYPTED = (0xFE0D, 0xFFCE)  # encrypted_client_hello, and encrypted_server_name before it


class BadHello(ValueError):
    """This is not the beginning of TLS, or none that we take."""


@dataclass(frozen=True, slots=True)
class Hello:
    """`name` is the server name as it was sent; `encrypted`: another one may be hidden in it."""

    name: str | None
    encrypted: bool


class HelloReader:
    """Feed it what comes until it answers."""

    def __init__(self) -> None:
        self._records = bytearray()
        self._message = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> Hello | None:
        """None: more is needed. Raises BadHello."""
        self._seen += len(data)
        self._records += data
        start = 0
        while True:
            head = self._records[start : start + 5]
            self._check_head(head)
            length = int.from_bytes(head[3:5], "big")
            if len(head) < 5 or len(self._records) < start + 5 + length:
                break
            self._message += self._records[start + 5 : start + 5 + length]
            start += 5 + length
            if self._is_whole():
                return parse(bytes(self._message))
        del self._records[:start]
        if self._seen > MAX_BYTES:
            raise BadHello("the first message of TLS is too long")
        return None

    def _check_head(self, head: bytearray) -> None:
        if head[:1] and head[0] != _HANDSHAKE:
            raise BadHello("this is not TLS")
        if head[1:2] and head[1] != 3:
            raise BadHello("this is not TLS")
        if len(head) == 5 and not 0 < int.from_bytes(head[3:5], "big") <= 16384:
            raise BadHello("a record of TLS has an impossible length")

    def _is_whole(self) -> bool:
        if self._message[0] != _CLIENT_HELLO:
            raise BadHello("TLS does not begin with a ClientHello")
        if len(self._message) < 4:
            return False
        length = int.from_bytes(self._message[1:4], "big")
        if length > MAX_MESSAGE:
            raise BadHello("the first message of TLS is too long")
        if len(self._message) > length + 4:
            raise BadHello("something follows the ClientHello in its record")
        return len(self._message) == length + 4


class _Bytes:
    """Takes a message apart, and never more than there is."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, count: int) -> bytes:
        if len(self._data) < count:
            raise BadHello("the ClientHello is cut short")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Bytes:
        """What has its length, in `size` bytes, in front."""
        return _Bytes(self.take(self.number(size)))

    def rest(self) -> bytes:
        return self.take(len(self._data))


def parse(message: bytes) -> Hello:
    """A whole handshake message. Raises BadHello."""
    body = _Bytes(message[4:])
    body.take(2 + 32)  # version, random
    body.vector(1)  # session
    body.vector(2)  # cipher suites
    body.vector(1)  # compression
    name, encrypted = None, False
    if body:
        extensions = body.vector(2)
        if body:
            raise BadHello("something follows the extensions of the ClientHello")
        seen = set()
        while extensions:
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind in seen:
                raise BadHello("an extension of the ClientHello comes twice")
            seen.add(kind)
            if kind == _SERVER_NAME:
                name = _server_name(content)
            encrypted = encrypted or kind in _ENCRYPTED
    return Hello(name, encrypted)


def _server_name(content: _Bytes) -> str:
    names = content.vector(2)
    kind, name = names.number(1), names.vector(2).rest()
    if content or names or kind != 0 or not name:
        raise BadHello("the server name must be one host name")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise BadHello("the server name is not ASCII") from None
