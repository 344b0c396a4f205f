"""Which certificates are believed: the system's and the operator's extra ones, never the environment's."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi

from sandbox_server.errors import ConfigError


def tls_context(extra: Path | None = None) -> ssl.SSLContext:
    """`extra` is a PEM file of further authorities. Raises ConfigError for one that can't be used.

    Made by hand: `create_default_context` takes SSL_CERT_FILE, and writes keys to SSLKEYLOGFILE.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    paths = ssl.get_default_verify_paths()
    file, directory = Path(paths.openssl_cafile), Path(paths.openssl_capath)
    if file.is_file() or (directory.is_dir() and any(directory.iterdir())):
        context.load_verify_locations(
            cafile=str(file) if file.is_file() else None,
            capath=str(directory) if directory.is_dir() else None,
        )
    else:
        context.load_verify_locations(cafile=certifi.where())
    if extra is not None:
        try:
            context.load_verify_locations(cafile=str(extra))
        except (OSError, ssl.SSLError):
            raise ConfigError(
                f"the CA bundle {extra} can't be read as PEM certificates",
                hint="give a file of -----BEGIN CERTIFICATE----- blocks",
            ) from None
    return context
