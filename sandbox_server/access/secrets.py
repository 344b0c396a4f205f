"""Secrets of the operator, by name. They leave this object only to go into a request's header."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from sandbox_server.errors import ConfigError

PREFIX = "SANDBOX_SECRET_"
SCHEME = "secret://"
MIN_LENGTH = 8
"""What is shorter can't be told from ordinary text, so an echo of it could not be redacted."""
_MAX_LENGTH = 8192
_SCHEMES = frozenset({"basic", "bearer", "token", "apikey", "api-key", "key", "digest", "negotiate", "bot"})
"""Of the header Authorization: echoes may show what stands behind them alone."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_VALUE = re.compile(r"[\x20-\x7e]+")


class Secrets:
    """`secret://NAME` from the variable SANDBOX_SECRET_NAME (upper case, `-` and `.` as `_`), or else from
    the file NAME in `directory`, which only its owner may read. Files are read each time: they are rotated.
    """

    def __init__(self, environ: Mapping[str, str], directory: Path | None = None) -> None:
        self._environ = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        self._directory = directory

    def __repr__(self) -> str:
        return "Secrets()"

    def __reduce__(self) -> str:
        raise TypeError("secrets are not pickled")

    def get(self, reference: str) -> str:
        """The value of a name, with or without `secret://`. Raises ConfigError, which holds no value."""
        name = reference.removeprefix(SCHEME)
        if not _NAME.fullmatch(name):
            raise ConfigError("a secret's name must be a letter, then letters, digits, _ . - (64 at most)")
        value = self._environ.get(PREFIX + re.sub("[-.]", "_", name).upper())
        if value is None:
            value = self._file(name)
        value = value.removesuffix("\n").removesuffix("\r")
        if (
            not MIN_LENGTH <= len(value) <= _MAX_LENGTH
            or not _VALUE.fullmatch(value)
            or value.strip() != value
        ):
            raise ConfigError(
                f"the secret {name} is not {MIN_LENGTH} to {_MAX_LENGTH:,} printable ASCII characters",
                hint="shorter ones can't be redacted where a server echoes them",
            )
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() in _SCHEMES and len(credentials) < MIN_LENGTH:
            raise ConfigError(
                f"the secret {name} has credentials of fewer than {MIN_LENGTH} characters behind {scheme}",
                hint="so few can't be redacted where a server echoes them",
            )
        return value

    def _file(self, name: str) -> str:
        variable = PREFIX + re.sub("[-.]", "_", name).upper()
        unset = ConfigError(
            f"the secret {name} is not set",
            hint=f"set {variable}, or put it into a file {name} of the secrets directory",
        )
        if self._directory is None:
            raise unset
        try:
            return _read(self._directory / name, name)
        except FileNotFoundError:
            raise unset from None
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"the file of the secret {name} can't be read as ASCII text") from None


def _read(path: Path, name: str) -> str:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"the secret {name} is not a regular file")
        if found.st_mode & 0o077:
            raise ConfigError(
                f"the file of the secret {name} has mode {found.st_mode & 0o777:o}: others may read it",
                hint=f"chmod 600 {name}",
            )
        return file.read(_MAX_LENGTH + 2).decode("ascii")
