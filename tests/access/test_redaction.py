"""An echo of a secret is taken out, in the spellings that echoes have."""

from __future__ import annotations

import base64
import html
import itertools
import json
import random
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.access.redaction import Redactor, StreamRedactor

SECRET = 'Bearer s3cr3t/token+with="quotes"&more'
TOKEN = SECRET.split(" ")[1]
SECRETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=40)


@pytest.mark.parametrize("secret", [SECRET, TOKEN])
def test_each_spelling_is_taken_out(secret: str) -> None:
    redactor = Redactor([SECRET])
    raw = secret.encode()
    spellings = [secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]]
    spellings += [
        html.escape(secret),
        raw.hex(),
        raw.hex().upper(),
        base64.b64encode(raw).decode().rstrip("="),
    ]
    for spelling in spellings:
        cleaned = redactor.text(f"<<{spelling}>>")
        assert "[secret]" in cleaned
        assert spelling not in cleaned
        assert redactor.body(f"<<{spelling}>>".encode()) == cleaned.encode()


@given(SECRETS, st.binary(max_size=9), st.binary(max_size=9))
def test_within_larger_base64_nothing_of_it_stays(secret: str, before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        cleaned = Redactor([secret]).text(encode(before + secret.encode() + after).decode())
        assert "[secret]" in cleaned


@given(SECRETS, st.integers(4, 40), st.binary(max_size=30))
def test_a_body_that_is_cut_within_a_secret_keeps_no_beginning_of_it(
    secret: str, length: int, before: bytes
) -> None:
    body = before + b" " + secret.encode()[:length]
    if length < len(secret):
        assert not Redactor([secret]).body(body, cut=True).endswith(secret.encode()[:length])


@pytest.mark.parametrize(
    "begun",
    [
        "s3cr3t%2Ftok",
        "s3cr3t%2ftoken%",
        "s3cr3t\\/token\\u00",
        "s3cr3t&#x2F;token&#4",
        "s3cr3t/token&#0043;wi",
        "Bearer%20s3cr3t%252F",
        "Bearer+s3cr3t/t",
    ],
)
def test_a_secret_in_mixed_spelling_that_is_cut_keeps_no_beginning(begun: str) -> None:
    assert Redactor([SECRET]).body(f"answer: {begun}".encode(), cut=True) == b"answer: [secret]"
    assert Redactor([SECRET]).body(f"answer: {begun}".encode()) == f"answer: {begun}".encode()


@given(st.data(), st.binary(max_size=20))
def test_a_body_that_is_cut_anywhere_in_any_spelling_keeps_no_beginning(
    data: st.DataObject, before: bytes
) -> None:
    spelt = "".join(
        data.draw(
            st.sampled_from([sign, *(() if sign.isalnum() else (f"%{ord(sign):02X}", f"&#{ord(sign)};"))])
        )
        for sign in TOKEN
    )
    cut = spelt[: data.draw(st.integers(6, len(spelt) - 1))].encode()
    assert not Redactor([SECRET]).body(before + b" " + cut, cut=True).endswith(cut[-4:])


def test_looking_for_a_secret_that_was_cut_takes_no_time() -> None:
    """It is done on the event loop, for every body that a server ends too early: by a secret as long as they
    are, with what its writing makes hardest."""
    signs = random.Random(5)
    secret = "Bearer " + "".join(signs.choice("abcdefghABCDEFGH0123456789-_/+.") for _ in range(8000))
    redactor = Redactor([secret])
    bodies = [b"a" * 60_000, secret[:7900].encode(), b"%2d&#x0" * 8000, secret[:30].encode() * 2000]
    for body in bodies:
        began = time.process_time()
        redactor.body(body, cut=True)
        assert time.process_time() - began < 0.5, body[:20]


def test_of_basic_credentials_the_pair_and_the_password_are_taken_out() -> None:
    redactor = Redactor(["Basic " + base64.b64encode(b"user:a-password").decode()])
    assert redactor.text("user:a-password a-password") == "[secret] [secret]"


def test_without_secrets_nothing_changes() -> None:
    assert Redactor().body(b"abc", cut=True) == b"abc"
    assert not Redactor()
    assert SECRET not in repr(Redactor([SECRET]))


# --- in streams


def spellings(secret: str) -> list[bytes]:
    raw = secret.encode()
    plain = [
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        html.escape(secret),
    ]
    for escape in ("&#{:07};", "\\u00{:02x}"):
        plain.append("".join(each if each.isalnum() else escape.format(ord(each)) for each in secret))
    encoded = [raw.hex().encode(), base64.b64encode(raw), base64.urlsafe_b64encode(raw)]
    return [*(each.encode() for each in plain), *(each.rstrip(b"=") for each in encoded)]


def streamed(redactor: StreamRedactor, data: bytes, cuts: list[int]) -> bytes:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [redactor.feed(data[a:b]) for a, b in itertools.pairwise(places)]
    return b"".join([*pieces, redactor.end()])


@given(SECRETS, st.data())
def test_however_a_stream_is_cut_the_same_comes_out_and_no_spelling_of_a_secret(
    secret: str, data: st.DataObject
) -> None:
    pieces = st.sampled_from(spellings(secret)) | st.binary(max_size=12) | st.just(secret[:7].encode())
    body = b"".join(data.draw(st.lists(pieces, max_size=6)))
    cuts = data.draw(st.lists(st.integers(0, 2000), max_size=8))
    cleaned = streamed(StreamRedactor([secret]), body, cuts)
    assert cleaned == StreamRedactor([secret]).whole(body)
    assert len(cleaned) == len(body)
    # Of base64 the last sign may be another, by its neighbour: it may stay.
    assert not any(spelling[:-1] in cleaned for spelling in spellings(secret))


@given(
    st.text("ab", min_size=8, max_size=12), st.text("ab", min_size=8, max_size=12), st.text("ab", max_size=60)
)
def test_spellings_that_overlap_are_all_taken_out(one: str, other: str, text: str) -> None:
    redactor = StreamRedactor([one, other])
    body = text.encode()
    expected = bytearray(body)
    for secret in (one.encode(), other.encode()):
        for start in range(len(body)):
            if body.startswith(secret, start):
                expected[start : start + len(secret)] = b"*" * len(secret)
    assert streamed(redactor, body, [*range(0, 60, 7)]) == bytes(expected)


def test_each_byte_of_a_stream_can_come_alone() -> None:
    redactor = StreamRedactor([SECRET])
    body = b"<" + b"|".join(spellings(TOKEN)) + b">"
    pieces = [redactor.feed(bytes([each])) for each in body]
    cleaned = b"".join(pieces) + redactor.end()
    assert set(cleaned) <= set(b"<|>*=")


def test_a_stream_without_secrets_passes_as_it_comes() -> None:
    redactor = StreamRedactor()
    assert (redactor.feed(b"abc"), redactor.end(), bool(redactor)) == (b"abc", b"", False)
    assert SECRET not in repr(StreamRedactor([SECRET]))


@pytest.mark.parametrize("begun", [b"Bearer s3cr3t/to", b"s3cr3t%2Ftoken%", b"s3cr3t&#x2f;token&#4"])
def test_a_stream_that_ends_within_a_secret_passes_no_beginning_of_it(begun: bytes) -> None:
    redactor = StreamRedactor([SECRET])
    assert redactor.feed(b"answer: " + begun) + redactor.end(cut=True) == b"answer: " + b"*" * len(begun)
