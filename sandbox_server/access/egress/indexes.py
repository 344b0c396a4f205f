"""What `@python-index` and `@npm-index` stand for on this host: pip and npm are asked, who know their
defaults, further indexes and registries of scopes.

An index names the files of packages by URL, often on another host. Which one that is, is asked too, of the
index by way of its own client, and remembered for a day.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sandbox_server.access.egress.package_tools import Ask, PackageTools, has_credentials, host_of, plain

_log = logging.getLogger(__name__)

PYTHON, NPM = "@python-index", "@npm-index"
FILE: Final = "egress-indexes.json"
_REMEMBERED: Final = 24 * 3600.0
_EXTRA: Final = "PIP_EXTRA_INDEX_URL"


@dataclass(frozen=True, slots=True)
class Index:
    """`url` without credentials, which this host has for what is `guarded`. `hosts` as rules name them, the
    index's own first. `more` is what a sandbox is told of further indexes."""

    url: str
    hosts: tuple[str, ...]
    more: Mapping[str, str] = field(default_factory=dict)
    guarded: tuple[str, ...] = ()


class Indexes:
    """`resolve` is what a policy's aliases are resolved with. Blocks for seconds when it asks."""

    def __init__(self, directory: Path, *, ask: Ask | None = None) -> None:
        self._file = directory / FILE
        self._tools = PackageTools(ask)
        self.known: dict[str, Index] = {}

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells pip and npm in a sandbox of the indexes that were resolved."""
        names = {PYTHON: "PIP_INDEX_URL", NPM: "npm_config_registry"}
        found = {names[alias]: index.url for alias, index in self.known.items()}
        for index in self.known.values():
            found.update(index.more)
        return found

    def resolve(self, alias: str) -> tuple[str, ...]:
        """The hosts of an alias. Raises ValueError if nobody here knows."""
        said = self._tools.python_index() if alias == PYTHON else self._tools.npm_registry()
        url, further = plain(said), self._further(alias)
        entry = self._entry(alias)
        files, at = self._remembered(entry, url) or self._discovered(alias, url)
        own = (host_of(url), *(host_of(each) for each in further.values()))
        index = Index(
            url,
            tuple(dict.fromkeys((*own, *files))),
            _told(alias, further),
            self._guarded(alias, (said, *further.values())),
        )
        self.known[alias] = index
        self._remember(alias, entry, {**_written(index), "files": list(files), "at": at})
        return index.hosts

    def recall(self, aliases: Iterable[str]) -> None:
        """What was last resolved, without asking anybody."""
        for alias in aliases:
            entry = self._entry(alias)
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                self.known[alias] = Index(
                    plain(entry["url"]),
                    tuple(entry["hosts"]),
                    {str(name): str(value) for name, value in entry["more"].items()},
                    tuple(entry["guarded"]),
                )

    # --- where the indexes are

    def _further(self, alias: str) -> dict[str, str]:
        """URLs, by scope or number. Those that no sandbox could reach are left out."""
        try:
            if alias == PYTHON:
                found = {str(number): url for number, url in enumerate(self._tools.python_extras())}
            else:
                found = self._tools.npm_scopes()
        except ValueError as error:
            _log.warning("%s: further indexes could not be asked for, none is allowed: %s", alias, error)
            return {}
        usable = {}
        for name, url in found.items():
            try:
                host_of(url)
                usable[name] = url
            except ValueError:
                _log.warning("%s: a further index of this host is no http or https URL: left out", alias)
        return usable

    def _guarded(self, alias: str, urls: Iterable[str]) -> tuple[str, ...]:
        """Those that this host has credentials for."""
        logins: tuple[str, ...] = ()
        if alias == NPM:
            with suppress(ValueError):
                logins = tuple(host_of(f"https://{host}") for host in self._tools.npm_guarded())
        return tuple(
            dict.fromkeys(host_of(url) for url in urls if has_credentials(url) or host_of(url) in logins)
        )

    # --- where their files are

    def _discovered(self, alias: str, url: str) -> tuple[tuple[str, ...], float]:
        try:
            urls = self._tools.python_files() if alias == PYTHON else self._tools.npm_files()
            return tuple(host_of(each) for each in urls), time.time()
        except ValueError as error:
            _log.warning(
                "%s: where its files are could not be asked, only %s is allowed: %s", alias, url, error
            )
            return (), 0.0

    # --- what was found

    def _entry(self, alias: str) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            entry = json.loads(self._file.read_text(encoding="utf-8"))[alias]
            if isinstance(entry, dict):
                return entry
        return {}

    def _remembered(self, entry: Mapping[str, Any], url: str) -> tuple[tuple[str, ...], float] | None:
        try:
            fresh = entry["url"] == url and 0 <= time.time() - entry["at"] < _REMEMBERED
            files = tuple(host_of(f"https://{host}") for host in entry["files"])
            return (files, float(entry["at"])) if fresh else None
        except (ValueError, KeyError, TypeError):
            return None

    def _remember(self, alias: str, before: Mapping[str, object], entry: Mapping[str, object]) -> None:
        if before == entry:
            return
        entries = {}
        with suppress(OSError, ValueError):
            entries = json.loads(self._file.read_text(encoding="utf-8"))
        entries[alias] = entry
        fresh = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_text(json.dumps(entries), encoding="utf-8")
            fresh.replace(self._file)


def _told(alias: str, further: Mapping[str, str]) -> dict[str, str]:
    if alias == PYTHON:
        return {_EXTRA: " ".join(plain(url) for url in further.values())} if further else {}
    return {f"npm_config_{scope}:registry": plain(url) for scope, url in further.items()}


def _written(index: Index) -> dict[str, Any]:
    return {
        "url": index.url,
        "hosts": list(index.hosts),
        "more": dict(index.more),
        "guarded": list(index.guarded),
    }
