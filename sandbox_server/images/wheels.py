"""Fetch the locked wheels of an image on this host, with the host's own pip configuration.

Builds install them with no index and no network of their own, so neither an index's address nor the CA
of a TLS-inspecting proxy ever enters a build. Every wheel is checked against the lock's hashes here,
and again inside the build.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from sandbox_server.errors import ConfigError
from sandbox_server.images.commands import run

_PYTHON = "313"
_GLIBC = range(17, 42)
"""Minor versions of glibc whose manylinux wheels run on trixie, which has 2.41."""

_USUAL_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

_HINT = (
    "pip on this host fetches the wheels, with its own configuration: check that "
    "`pip download numpy` works here"
)
_HINT_TLS = "a TLS-inspecting proxy? give its CA with --ca-bundle FILE (it never enters an image)"


async def fetch(lock: Path, cache: Path, *, ca_bundle: Path | None, log: Callable[[str], None]) -> list[Path]:
    """The wheels of `lock`, downloaded into a directory of `cache` unless they are there already.

    Raises ConfigError with pip's own words if that fails.
    """
    target = cache / "wheels" / _digest(lock)
    if not target.is_dir():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        await _download(lock, partial, ca_bundle=ca_bundle, log=log)
        partial.rename(target)
    return sorted(target.glob("*.whl"))


async def _download(lock: Path, target: Path, *, ca_bundle: Path | None, log: Callable[[str], None]) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check",
        "--progress-bar", "off", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--implementation", "cp", "--python-version", _PYTHON, "--abi", f"cp{_PYTHON}", "--abi", "abi3",
        "--abi", "none", *_platforms(), *(await _certificates(ca_bundle)),
        "--dest", str(target), "--requirement", str(lock),
    ]  # fmt: skip
    ended = await run(command, log=log)
    if ended.exit_code != 0:
        tls = "CERTIFICATE_VERIFY_FAILED" in ended.tail or "SSLError" in ended.tail
        raise ConfigError(
            f"pip could not fetch the wheels of {lock.parent.name}:\n{ended.tail}",
            hint=_HINT_TLS if tls else _HINT,
        )


def _platforms() -> list[str]:
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    return [argument for tag in tags for argument in ("--platform", tag)]


async def _certificates(ca_bundle: Path | None) -> list[str]:
    """pip's own setting wins over the usual places, and the caller's over both."""
    if ca_bundle is not None:
        return ["--cert", str(_existing(ca_bundle))]
    if "PIP_CERT" in os.environ or await _pip_has_certificate():
        return []
    places = [Path(os.environ[name]) for name in _USUAL_BUNDLES if os.environ.get(name)]
    found = next((place for place in (*places, _SYSTEM_BUNDLE) if place.is_file()), None)
    return ["--cert", str(found)] if found else []


def _existing(ca_bundle: Path) -> Path:
    if not ca_bundle.is_file():
        raise ConfigError(f"--ca-bundle {ca_bundle}: there is no such file")
    return ca_bundle


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()[:16]


async def _pip_has_certificate() -> bool:
    lines: list[str] = []
    await run([sys.executable, "-m", "pip", "config", "list"], log=lines.append)
    return any(line.split("=")[0].endswith(".cert") for line in lines)
