"""Patterns of hosts, as the rules of a policy write them; those of paths are in `globs`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from sandbox_server.guards.globs import PathGlob
from sandbox_server.guards.names import UrlRefused, canonical_host
from sandbox_server.guards.suffixes import is_public_suffix

__all__ = ["HostPattern", "PathGlob"]

_PORT = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """`api.example.com`, an IP literal, or `*.example.com`: every depth below, and not the apex itself.

    `port` is None unless the pattern says one.
    """

    host: str
    wildcard: bool = False
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError that says what is wrong and what to write."""
        if not text or text.strip() != text:
            raise ValueError("must be a host, without spaces")
        if "://" in text or "/" in text:
            raise ValueError("must be a host alone: no scheme, no path (paths have their own key)")
        if "@" in text or "?" in text or "#" in text:
            raise ValueError("must be a host alone")
        if not text.isascii():
            raise ValueError(f"must be written as an A-label{_as_a_label(text)}")
        host, port = _split_port(text)
        wildcard = host.startswith("*.")
        name = host[2:] if wildcard else host
        if "*" in name or host == "*":
            raise ValueError(
                "* may only stand as the first label, as in *.example.com; a bare * is not taken"
            )
        try:
            name = canonical_host(name)
        except UrlRefused as error:
            if wildcard and error.reason == "url.host_single_label":
                raise ValueError(f"*.{name} is a wildcard below a public suffix: name the domain") from None
            raise ValueError(str(error)) from None
        if wildcard and (name.startswith("[") or name[-1].isdigit()):
            raise ValueError("* goes with names, not with addresses: networks are opened with 'addresses'")
        if wildcard and is_public_suffix(name):
            raise ValueError(f"*.{name} would match hosts of strangers: name the domain below {name}")
        return cls(name, wildcard, port)

    def matches(self, host: str) -> bool:
        """`host` in canonical form; the port is the caller's to compare."""
        return host.endswith(f".{self.host}") if self.wildcard else host == self.host

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{'*.' if self.wildcard else ''}{self.host}{port}"


def _split_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, None
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("the port must be a number from 1 to 65535, without leading zeros")
    return host, int(port)


def _as_a_label(text: str) -> str:
    prefix = "*." if text.startswith("*.") else ""
    try:
        return f": {prefix}{canonical_host(text.removeprefix('*.'))}"
    except UrlRefused:
        return ""
