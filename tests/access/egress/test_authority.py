"""The deployment's own authority, and what sandboxes are told to trust."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sandbox_server.access.egress import Authority, Gateway, authority
from sandbox_server.access.egress.trust import read_bundle, sandbox_bundle, server_context
from sandbox_server.errors import ConfigError
from sandbox_server.guards.web import EgressGrant, EgressLimits


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


def test_the_environment_decides_neither_whom_the_server_believes_nor_who_reads_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = Authority.load(tmp_path)
    (tmp_path / "strange.pem").write_bytes(strange.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "strange.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    mine = Authority.load(tmp_path / "mine")
    gateway = Gateway(lambda connect: EgressGrant("r1"), lambda profile: EgressLimits())
    for context in (server_context(mine.pem), gateway.tls):
        assert context.keylog_filename is None
        assert ssl.PEM_cert_to_DER_cert(strange.pem.decode()) not in context.get_ca_certs(binary_form=True)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    trusted = server_context(mine.pem).get_ca_certs(binary_form=True)
    assert ssl.PEM_cert_to_DER_cert(mine.pem.decode()) in trusted
