"""The deployment's own authority, and what sandboxes are told to trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_server.access.egress import Authority, authority
from sandbox_server.access.egress.trust import read_bundle, sandbox_bundle
from sandbox_server.errors import ConfigError


def test_it_is_made_once_and_only_the_server_can_read_it(tmp_path: Path) -> None:
    first = Authority.load(tmp_path / "state")
    assert Authority.load(tmp_path / "state").pem == first.pem
    [file] = (tmp_path / "state").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in first.pem
    assert Authority.load(tmp_path / "other").pem != first.pem


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_holds_none_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / authority.FILE
    file.touch(0o600)
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no authority"):
        Authority.load(tmp_path)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    Authority.load(tmp_path)
    (tmp_path / authority.FILE).chmod(0o640)
    with pytest.raises(ConfigError, match="read by others"):
        Authority.load(tmp_path)


def test_certificates_are_made_once_and_no_more_are_kept_than_may_be(tmp_path: Path) -> None:
    made = Authority.load(tmp_path)
    first = made.context("a.example.com")
    assert made.context("a.example.com") is first
    for number in range(authority.MOST_LEAVES):
        made.context(f"h{number}.example.com")
    assert made.context("a.example.com") is not first


def test_a_bundle_holds_certificates_and_no_keys(tmp_path: Path) -> None:
    own = Authority.load(tmp_path)
    extra = Authority.load(tmp_path / "extra")
    mixed = tmp_path / "bundle.pem"
    mixed.write_bytes(
        "# Zertifikate für alle\n".encode() + (tmp_path / "extra" / authority.FILE).read_bytes()
    )
    bundle = sandbox_bundle(read_bundle(mixed), own)
    assert own.pem.strip() in bundle
    assert extra.pem.strip() in bundle
    assert b"PRIVATE" not in bundle
    assert bundle.isascii()


def test_a_bundle_without_certificates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_bytes(b"nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="ca_bundle"):
            read_bundle(tmp_path / name)
