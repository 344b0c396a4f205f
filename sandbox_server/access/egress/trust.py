"""Which certificates sandboxes and the server's own connections trust."""

from __future__ import annotations

import ssl
from pathlib import Path

from sandbox_server.access.egress.authority import Authority
from sandbox_server.access.http.trust import tls_context
from sandbox_server.errors import ConfigError

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
MOST_BYTES = 2 * 1024**2
BEGIN = "-----BEGIN CERTIFICATE-----"


def host_roots() -> bytes:
    """What this host trusts, or nothing if it has no bundle where one is looked for."""
    named = ssl.get_default_verify_paths().cafile
    for path in (*([named] if named else []), *_BUNDLES):
        try:
            return Path(path).read_bytes()
        except OSError:
            continue
    return b""


def read_bundle(path: Path) -> bytes:
    """The operator's extra certificates. Raises ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"egress.ca_bundle: {path}: {error.strerror}", hint="name a PEM file") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=_certificates(data))
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"egress.ca_bundle: {path} holds no certificates in PEM", hint="name a PEM file"
        ) from None
    return data


def sandbox_bundle(extra: bytes = b"", authority: Authority | None = None) -> bytes:
    """All that programs in sandboxes should trust: this host's roots, the operator's extra ones, and the
    server's own authority."""
    parts = [host_roots(), extra, authority.pem if authority else b""]
    bundle = "".join(_certificates(part) for part in parts).encode()
    if len(bundle) > MOST_BYTES:
        raise ConfigError(
            f"the certificates for sandboxes take {len(bundle)} bytes, at most {MOST_BYTES} are handed over",
            hint="give egress.ca_bundle fewer certificates",
        )
    return bundle


def server_context(extra: bytes = b"") -> ssl.SSLContext:
    """For the server's own connections to hosts that it terminates: without its own authority, and without
    what the environment says, which could name another or have the keys written down."""
    context = tls_context()
    context.set_alpn_protocols(["http/1.1"])
    if extra:
        context.load_verify_locations(cadata=_certificates(extra))
    return context


def _certificates(data: bytes) -> str:
    """The certificates alone, in ASCII: bundles hold comments in all languages, and keys by mistake."""
    text = data.decode("ascii", errors="ignore")
    end = "-----END CERTIFICATE-----"
    blocks = (block.partition(end) for block in text.split(BEGIN)[1:])
    return "".join(f"{BEGIN}{body}{found}\n" for body, found, _ in blocks if found)
