"""The first message of TLS, from real clients and from nobody's."""

from __future__ import annotations

import ssl
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.access.egress.hello import MAX_BYTES, BadHello, Hello, HelloReader
from tests.access.egress.world import client_hello, records

NAMES = st.from_regex(r"[a-z]{1,10}(\.[a-z]{1,10}){1,3}", fullmatch=True)


def real_hello(name: str, **changes: object) -> bytes:
    """What Python's own TLS sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the host's authorities would take long to load
    for key, value in changes.items():
        setattr(context, key, value)
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@given(NAMES, st.lists(st.integers(1, 5000), max_size=10))
def test_the_name_of_a_real_hello_is_found_however_it_is_cut(name: str, cuts: list[int]) -> None:
    sent = real_hello(name)
    reader = HelloReader()
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    found = [reader.feed(sent[a:b]) for a, b in pairwise(edges)]
    assert found[-1] == Hello(name, False)
    assert set(found[:-1]) <= {None}


def test_older_tls_is_read_too() -> None:
    assert HelloReader().feed(real_hello("a.example.com", maximum_version=ssl.TLSVersion.TLSv1_2)) == Hello(
        "a.example.com", False
    )


@given(st.binary(max_size=400))
def test_anything_else_is_refused_or_waited_for(data: bytes) -> None:
    with suppress(BadHello):
        assert HelloReader().feed(data) is None or data[:1] == b"\x16"


@given(st.binary(min_size=1, max_size=300), st.integers(0, 400))
def test_a_hello_with_something_changed_names_its_host_or_nothing_crashes(noise: bytes, at: int) -> None:
    message = bytearray(client_hello("site.example.com", (21, bytes(40))))
    start = 4 + at % (len(message) - 4)
    message[start : start + len(noise)] = noise
    with suppress(BadHello):
        HelloReader().feed(records(bytes(message)))


def test_a_hello_without_end_is_given_up() -> None:
    begun = records(b"\1\0\x3f\xff", 1)
    with pytest.raises(BadHello, match="too long"):
        HelloReader().feed(begun + b"\x16\3\1\0\1\1" * (MAX_BYTES // 6))
