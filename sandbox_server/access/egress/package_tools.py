"""pip and npm of this host, asked what they are set up for. What they say may hold passwords: of it nothing
may be handed on but `plain` addresses.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from sandbox_server.guards.urls import UrlRefused, parse_url

_SECONDS: Final = 60.0
_MOST: Final = 4 * 1024**2
_DEFAULT: Final = re.compile(r"--index-url <url>.{1,200}?\(default:? ([^\s)]+)\)", re.DOTALL)
_EXTRA: Final = "extra-index-url"
_SCOPED: Final = re.compile(r'^(@[a-z0-9~.-]{1,200}):registry = ("[^"\\]{1,2000}")', re.MULTILINE)
_PROTECTED: Final = re.compile(r"^//([^/\s]{1,300})/[^\n]{0,2000}:_[a-zA-Z]+ = ", re.MULTILINE)
_USERINFO: Final = re.compile(r"//[^/\s@]{0,2000}@")

Ask = Callable[[Sequence[str], Mapping[str, str]], str]
"""What a command says on stdout. Raises OSError or ValueError."""


class PackageTools:
    """Each method raises ValueError where nobody here knows."""

    def __init__(self, ask: Ask | None = None) -> None:
        self._ask = ask or _run

    def python_index(self) -> str:
        # Its help shows what holds by its configuration, and by default, without passwords.
        text = self._say([*_pip(), "install", "--help"], COLUMNS="1000")
        found = _DEFAULT.search(text)
        if found is None:
            raise ValueError(
                "pip on this host does not say which index it uses: write the index's host instead"
            )
        return found[1]

    def python_extras(self) -> tuple[str, ...]:
        """The further indexes that `pip install` looks at. The last of these settings holds, as in pip."""
        found: dict[str, str] = {}
        for line in self._say([*_pip(), "config", "list"]).splitlines():
            name, _, value = line.partition("=")
            with suppress(ValueError, SyntaxError):
                found[name.strip()] = str(ast.literal_eval(value))
        holding = [found[name] for name in _of_sections(_EXTRA) if name in found]
        return tuple(holding[0].split()) if holding else ()

    def python_files(self) -> tuple[str, ...]:
        """URLs of files of an index."""
        command = [
            *_pip(), "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps", "--no-input",
            "--only-binary", ":all:", "--disable-pip-version-check", "--report", "-", "pip",
        ]  # fmt: skip
        try:
            report = json.loads(self._say(command, PIP_FIND_LINKS=""))
            urls = [str(each["download_info"]["url"]) for each in report["install"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"pip's report is not understood: {error!r}") from None
        return tuple(url for url in urls if url.startswith(("http:", "https:")))

    def npm_registry(self) -> str:
        return self._say([_npm(), "config", "get", "registry"]).strip()

    def npm_scopes(self) -> dict[str, str]:
        """The registries that single scopes have."""
        said = self._say([_npm(), "config", "list"])
        return {scope: json.loads(url) for scope, url in _SCOPED.findall(said)}

    def npm_guarded(self) -> tuple[str, ...]:
        """Hosts for which npm has a token or a password, which it does not show."""
        return tuple(_PROTECTED.findall(self._say([_npm(), "config", "list"])))

    def npm_files(self) -> tuple[str, ...]:
        return (self._say([_npm(), "view", "npm", "dist.tarball"]).strip(),)

    def _say(self, command: Sequence[str], **environment: str) -> str:
        try:
            return self._ask(command, environment)
        except (OSError, subprocess.SubprocessError) as error:
            shown = _USERINFO.sub("//", str(error))
            raise ValueError(f"{Path(command[0]).name} failed on this host: {shown}") from None


def _of_sections(name: str) -> tuple[str, ...]:
    """First what holds before the others."""
    return f":env:.{name}", f"install.{name}", f"global.{name}"


def _pip() -> list[str]:
    """The one beside this server, or the one in the path."""
    try:
        import pip  # noqa: F401

        return [sys.executable, "-m", "pip"]
    except ImportError:
        pass
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise ValueError("pip is not on this host: write the index's host instead")
    return [found]


def _npm() -> str:
    found = shutil.which("npm")
    if found is None:
        raise ValueError("npm is not on this host: write the registry's host instead")
    return found


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    ended = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if ended.returncode != 0:
        raise OSError(ended.stderr.decode(errors="replace").strip()[-300:] or f"status {ended.returncode}")
    return ended.stdout[:_MOST].decode(errors="replace")


def plain(url: str) -> str:
    """Without credentials, which sandboxes must not have: a rule can `inject` them."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the index of this host is no http or https URL: write the index's host instead")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def has_credentials(url: str) -> bool:
    return "@" in urlsplit(url).netloc


def host_of(url: str) -> str:
    """As a rule names it. Raises ValueError."""
    try:
        found = parse_url(plain(url))
    except UrlRefused as error:
        raise ValueError(f"an index's address is not understood: {error}") from None
    return found.host if (found.scheme, found.port) == ("https", 443) else f"{found.host}:{found.port}"
