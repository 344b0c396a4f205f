"""The deployment's own certificate authority, for hosts that the operator has marked to be terminated.

Its key never leaves the state directory, where it is readable to the server alone; certificates for hosts
are made in memory and live for days. Only sandboxes trust it: for the server's own connections it is nobody.
"""

from __future__ import annotations

import os
import ssl
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox_server.errors import ConfigError

FILE = "egress-ca.pem"
MOST_LEAVES = 256
_YEARS = 10
_LEAF_DAYS = 7
_RENEW_DAYS = 3
_EARLIER = timedelta(hours=1)
_PEM = serialization.Encoding.PEM


class Authority:
    """`load` makes one where there is none."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaves: OrderedDict[str, tuple[datetime, ssl.SSLContext]] = OrderedDict()

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Raises ConfigError if what is there can't be used, or others may read it."""
        path = directory / FILE
        if not path.exists():
            _create(path)
        if path.stat().st_mode & 0o077:
            raise ConfigError(
                f"{path} can be read by others", hint=f"chmod 600 {path}, or remove it for a new authority"
            )
        data = path.read_bytes()
        try:
            key = serialization.load_pem_private_key(data, None)
            certificate = x509.load_pem_x509_certificate(data)
        except ValueError as error:
            raise ConfigError(f"{path} holds no authority: {error}", hint="remove it for a new one") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{path} holds a key of another certificate", hint="remove it for a new one")
        if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=30):
            raise ConfigError(f"the authority in {path} expires soon", hint="remove it for a new one")
        return cls(key, certificate)

    @property
    def pem(self) -> bytes:
        """The certificate, which sandboxes are given to trust."""
        return self._certificate.public_bytes(_PEM)

    def context(self, host: str) -> ssl.SSLContext:
        """For the server's side of TLS with a program that wants `host`."""
        now = datetime.now(UTC)
        made = self._leaves.get(host)
        if made is None or now - made[0] > timedelta(days=_RENEW_DAYS):
            made = self._leaves[host] = (now, self._context(host, now))
            if len(self._leaves) > MOST_LEAVES:
                self._leaves.popitem(last=False)
        self._leaves.move_to_end(host)
        return made[1]

    def _context(self, host: str, now: datetime) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # The ssl module loads from files only; this one never has a name.
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.write(_private(self._leaf_key) + self._leaf(host, now).public_bytes(_PEM))
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        return context

    def _leaf(self, host: str, now: datetime) -> x509.Certificate:
        name: x509.GeneralName
        try:
            name = x509.IPAddress(ip_address(host.strip("[]")))
        except ValueError:
            name = x509.DNSName(host)
        public = self._leaf_key.public_key()
        return (
            _builder(public, now, timedelta(days=_LEAF_DAYS))
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def _create(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox-server egress authority")])
    certificate = (
        _builder(key.public_key(), datetime.now(UTC), timedelta(days=365 * _YEARS))
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(_private(key) + certificate.public_bytes(_PEM))
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def _builder(public: ec.EllipticCurvePublicKey, now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
