"""An echo of a secret is taken out, in the spellings that echoes have."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.access.redaction import Redactor

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


def test_of_basic_credentials_the_pair_and_the_password_are_taken_out() -> None:
    redactor = Redactor(["Basic " + base64.b64encode(b"user:a-password").decode()])
    assert redactor.text("user:a-password a-password") == "[secret] [secret]"


def test_without_secrets_nothing_changes() -> None:
    assert Redactor().body(b"abc", cut=True) == b"abc"
    assert not Redactor()
    assert SECRET not in repr(Redactor([SECRET]))
