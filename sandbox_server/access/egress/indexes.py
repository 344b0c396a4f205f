"""What `@python-index` and `@npm-index` stand for on this host: pip and npm are asked, who know their
defaults.

An index names the files of packages by URL, often on another host. Which one that is, is asked too, of the
index by way of its own client, and remembered for a day.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from sandbox_server.guards.urls import UrlRefused, parse_url

_log = logging.getLogger(__name__)

PYTHON, NPM = "@python-index", "@npm-index"
FILE: Final = "egress-indexes.json"
_REMEMBERED: Final = 24 * 3600.0
_SECONDS: Final = 60.0
_MOST: Final = 4 * 1024**2
_DEFAULT: Final = re.compile(r"--index-url <url>.{1,200}?\(default:? ([^\s)]+)\)", re.DOTALL)

Ask = Callable[[Sequence[str], Mapping[str, str]], str]
"""What a command says on stdout. Raises OSError or ValueError."""


@dataclass(frozen=True, slots=True)
class Index:
    """`url` without credentials. `hosts` as rules name them, the index's own first."""

    url: str
    hosts: tuple[str, ...]


class Indexes:
    """`resolve` is what a policy's aliases are resolved with. Blocks for seconds when it asks."""

    def __init__(self, directory: Path, *, ask: Ask | None = None) -> None:
        self._file = directory / FILE
        self._ask = ask or _run
        self.known: dict[str, Index] = {}

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells pip and npm in a sandbox of the indexes that were resolved."""
        names = {PYTHON: "PIP_INDEX_URL", NPM: "npm_config_registry"}
        return {names[alias]: index.url for alias, index in self.known.items()}

    def resolve(self, alias: str) -> tuple[str, ...]:
        """The hosts of an alias. Raises ValueError if nobody here knows."""
        url = self._python_url() if alias == PYTHON else self._npm_url()
        own = _host(url)
        found = self._remembered(alias, url) or self._discovered(alias, url)
        index = self.known[alias] = Index(url, tuple(dict.fromkeys((own, *found))))
        return index.hosts

    def recall(self, aliases: Iterable[str]) -> None:
        """What was last resolved, without asking anybody."""
        for alias in aliases:
            with suppress(OSError, ValueError, KeyError, TypeError):
                entry = json.loads(self._file.read_text(encoding="utf-8"))[alias]
                self.known[alias] = Index(_plain(entry["url"]), tuple(entry["hosts"]))

    # --- where the index is

    def _python_url(self) -> str:
        # Its help shows what holds by its configuration, and by default, without passwords.
        text = self._say([*_pip(), "install", "--help"], COLUMNS="1000")
        found = _DEFAULT.search(text)
        if found is None:
            raise ValueError(
                "pip on this host does not say which index it uses: write the index's host instead"
            )
        return _plain(found[1])

    def _npm_url(self) -> str:
        return _plain(self._say([_npm(), "config", "get", "registry"]).strip())

    # --- where its files are

    def _discovered(self, alias: str, url: str) -> tuple[str, ...]:
        try:
            found = self._python_files() if alias == PYTHON else self._npm_files()
        except ValueError as error:
            _log.warning(
                "%s: where its files are could not be asked, only %s is allowed: %s", alias, url, error
            )
            self._remember(alias, url, (), 0.0)
            return ()
        self._remember(alias, url, found, time.time())
        return found

    def _python_files(self) -> tuple[str, ...]:
        command = [
            *_pip(), "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps", "--no-input",
            "--only-binary", ":all:", "--disable-pip-version-check", "--report", "-", "pip",
        ]  # fmt: skip
        try:
            report = json.loads(self._say(command, PIP_FIND_LINKS=""))
            urls = [str(each["download_info"]["url"]) for each in report["install"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"pip's report is not understood: {error!r}") from None
        return tuple(_host(url) for url in urls if url.startswith(("http:", "https:")))

    def _npm_files(self) -> tuple[str, ...]:
        return (_host(self._say([_npm(), "view", "npm", "dist.tarball"]).strip()),)

    def _say(self, command: Sequence[str], **environment: str) -> str:
        try:
            return self._ask(command, environment)
        except (OSError, subprocess.SubprocessError) as error:
            raise ValueError(f"{Path(command[0]).name} failed on this host: {error}") from None

    # --- what was found

    def _remembered(self, alias: str, url: str) -> tuple[str, ...]:
        try:
            entry = json.loads(self._file.read_text(encoding="utf-8"))[alias]
            fresh = entry["url"] == url and 0 <= time.time() - entry["at"] < _REMEMBERED
            return tuple(_host(f"https://{host}") for host in entry["hosts"]) if fresh else ()
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def _remember(self, alias: str, url: str, hosts: tuple[str, ...], at: float) -> None:
        entries = {}
        with suppress(OSError, ValueError):
            entries = json.loads(self._file.read_text(encoding="utf-8"))
        entries[alias] = {"url": url, "hosts": hosts, "at": at}
        fresh = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(entries), encoding="utf-8")
            fresh.replace(self._file)


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


def _plain(url: str) -> str:
    """Without credentials, which sandboxes must not have: a rule can `inject` them."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the index of this host is no http or https URL: write the index's host instead")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _host(url: str) -> str:
    """As a rule names it. Raises ValueError."""
    try:
        found = parse_url(_plain(url))
    except UrlRefused as error:
        raise ValueError(f"an index's address is not understood: {error}") from None
    return found.host if (found.scheme, found.port) == ("https", 443) else f"{found.host}:{found.port}"
