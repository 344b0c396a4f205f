"""The certificate is verified for the host that was judged, by authorities of the system and the operator."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import trustme
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from sandbox_server.access.http.trust import tls_context
from sandbox_server.errors import ConfigError, PolicyDenied, UpstreamFailed, UpstreamUnreachable
from tests.access.http.conftest import server_context
from tests.access.http.lab import HOST, Seen, allow, answer, client, fetch, raw, serve


async def test_a_host_is_asked_by_its_name_and_verified(authority: trustme.CA, ca_file: Path) -> None:
    context = server_context(authority, HOST)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with serve(answer(), tls=context) as server:
        result = await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))
    assert result.status == 200
    assert asked == [HOST]
    assert server.seen[0].header("host") == f"{HOST}:{server.port}"


async def test_an_address_is_verified_as_an_address(authority: trustme.CA, ca_file: Path) -> None:
    async with serve(answer(), tls=server_context(authority, "127.0.0.1")) as server:
        result = await fetch(f"https://127.0.0.1:{server.port}/", allow("127.0.0.1"), by=client(ca=ca_file))
    assert result.status == 200


@pytest.mark.parametrize("name", ["other.example.test", "*.other.test", "example.test", "127.0.0.1"])
async def test_a_certificate_of_another_host_is_refused(
    name: str, authority: trustme.CA, ca_file: Path
) -> None:
    async with serve(answer(), tls=server_context(authority, name)) as server:
        with pytest.raises(UpstreamUnreachable, match=r"certificate of api\.example\.test") as refused:
            await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))
    assert refused.value.reason == "web.certificate"
    assert server.seen == []


async def test_a_certificate_of_a_strange_authority_is_refused(authority: trustme.CA) -> None:
    async with serve(answer(), tls=server_context(authority, HOST)) as server:
        with pytest.raises(UpstreamUnreachable, match="refused"):
            await fetch(f"https://{HOST}:{server.port}/", by=client())
    assert server.seen == []


async def test_an_expired_certificate_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(context)
    async with serve(answer(), tls=context) as server:
        with pytest.raises(UpstreamUnreachable, match="expired"):
            await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))


async def test_a_server_without_tls_is_no_https_server(ca_file: Path) -> None:
    async with serve(raw(b"HTTP/1.1 200 OK\r\n\r\n")) as server:
        with pytest.raises(UpstreamUnreachable) as failed:
            await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))
    assert failed.value.reason in ("web.tls", "web.timeout")


async def test_http2_is_neither_offered_nor_spoken(authority: trustme.CA, ca_file: Path) -> None:
    context = server_context(authority, HOST)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with serve(answer(), tls=context) as server:
        assert (await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))).status == 200
    assert server.seen[0].line == "GET / HTTP/1.1"


async def test_a_redirect_out_of_https_is_denied(authority: trustme.CA, ca_file: Path) -> None:
    script = answer(b"", "302 X", Location=f"http://{HOST}/")
    async with serve(script, tls=server_context(authority, HOST)) as server:
        with pytest.raises(PolicyDenied) as denied:
            await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))
    assert denied.value.rule == "floor.https_to_http"


def test_old_protocol_versions_are_off() -> None:
    context = tls_context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.get_ca_certs() or context.cert_store_stats()["x509"] == 0


def test_a_bundle_that_is_none_is_an_error_of_the_operators(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nonsense")
    for path in (tmp_path / "x.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigError, match="CA bundle"):
            tls_context(path)


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
ENVIRONED = """
import sys
sys.path.insert(0, {root!r})
import anyio, pathlib
from tests.access.http.lab import HOST, answer, client, fetch, serve
from tests.access.http.conftest import server_context
from sandbox_server.errors import UpstreamUnreachable
import trustme

async def main():
    authority = trustme.CA()
    authority.cert_pem.write_to_path({ca!r})
    async with serve(answer()) as server:
        result = await fetch(f"http://{{HOST}}:{{server.port}}/")
        assert result.status == 200, result
        assert server.seen[0].header("authorization") is None, "taken from .netrc"
        assert server.seen[0].header("proxy-authorization") is None
    async with serve(answer(), tls=server_context(authority, HOST)) as server:
        try:
            await fetch(f"https://{{HOST}}:{{server.port}}/")
        except UpstreamUnreachable as refused:
            assert refused.reason == "web.certificate", refused
        else:
            raise AssertionError("the environment's authority was believed")
        good = await fetch(f"https://{{HOST}}:{{server.port}}/", by=client(ca=pathlib.Path({ca!r})))
        assert good.status == 200

anyio.run(main)
print("as it should be")
"""


def test_nothing_in_the_environment_changes_where_a_request_goes_or_whom_it_believes(tmp_path: Path) -> None:
    nowhere = "http://user:password@127.0.0.1:1"
    (tmp_path / ".netrc").write_text(
        f"machine {HOST} login me password mine\ndefault login me password mine\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    environ = dict.fromkeys(PROXIES, nowhere)
    environ |= {
        name: str(tmp_path / "ca.pem") for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    }
    environ |= {
        "SSL_CERT_DIR": str(tmp_path),
        "SSLKEYLOGFILE": str(tmp_path / "keys"),
        "NETRC": str(tmp_path / ".netrc"),
    }
    environ |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "NO_PROXY": ""}
    root = str(Path(__file__).parents[3])
    program = ENVIRONED.format(root=root, ca=str(tmp_path / "ca.pem"))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("as it should be\n"), done.stderr
    # A context of `create_default_context` would have written them.
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
async def test_tls_that_breaks_after_its_handshake_is_a_broken_connection(
    first: bytes, authority: trustme.CA, ca_file: Path
) -> None:
    async def garble(seen: Seen, stream: ByteStream) -> None:
        if first:
            await stream.send(first)
        await cast(TLSStream, stream).transport_stream.send(b"\x17\x03\x03\x00\x20" + bytes(32))

    async with serve(garble, tls=server_context(authority, HOST)) as server:
        get = fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))
        if first:
            assert (await get).body.cut == "the connection ended before the body did"
        else:
            with pytest.raises(UpstreamFailed) as failed:
                await get
            assert failed.value.reason == "web.broken"


async def test_a_server_that_wants_a_certificate_of_ours_has_an_answer_of_its_own(
    authority: trustme.CA, ca_file: Path
) -> None:
    context = server_context(authority, HOST)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with serve(answer(), tls=context) as server:
        with pytest.raises(UpstreamFailed):
            await fetch(f"https://{HOST}:{server.port}/", by=client(ca=ca_file))
