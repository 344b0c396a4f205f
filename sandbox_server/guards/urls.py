"""URLs, parsed once and strictly: what is judged is what is connected to.

Two parsers give two answers, and a hole lies between them. So there is one, and everything else (the
policy, the resolver, the Host header, the certificate check) is built from its parts. What known parsers
read differently is refused rather than mended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from sandbox_server.guards.names import Reason, UrlRefused, canonical_host
from sandbox_server.guards.paths import canonical_path, canonical_query

__all__ = ["MAX_LENGTH", "Reason", "Scheme", "Url", "UrlRefused", "parse_url"]

Scheme = Literal["http", "https"]
MAX_LENGTH = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_UNSAFE = re.compile(r"[^\x21-\x7e]|\\")


@dataclass(frozen=True, slots=True)
class Url:
    """In canonical form: `host` is a lower-case A-label name or an IP literal (IPv6 in brackets), `port` is
    always set, `path` begins with a slash, `query` is without its question mark. There is no fragment.
    """

    scheme: Scheme
    host: str
    port: int
    path: str = "/"
    query: str = ""

    def __str__(self) -> str:
        return self.origin + self.target

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return self.host if self.port == _DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def target(self) -> str:
        """What the request line says."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """Of a host that is an IP literal."""
        if self.host[0] == "[":
            return ip_address(self.host[1:-1])
        return IPv4Address(self.host) if self.host[-1].isdigit() and _is_number(self.host) else None

    def join(self, location: str) -> Url:
        """Where a redirect to `location` leads. Raises UrlRefused."""
        _check_characters(location)
        location = location.partition("#")[0]
        if not location:
            return self
        if _SCHEME.match(location):
            return parse_url(location)
        if location.startswith("//"):
            return parse_url(f"{self.scheme}:{location}")
        if location.startswith("/"):
            return parse_url(self.origin + location)
        if location.startswith("?"):
            return parse_url(self.origin + self.path + location)
        return parse_url(f"{self.origin}{self.path.rpartition('/')[0]}/{location}")


def _is_number(host: str) -> bool:
    return host.rpartition(".")[2].isdigit()


def parse_url(text: str) -> Url:
    """Raises UrlRefused, whose message says what is wrong and never repeats a password."""
    _check_characters(text)
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise UrlRefused("url.scheme", "the URL must begin with http:// or https://")
    name = scheme[1].lower()
    if name not in ("http", "https"):
        raise UrlRefused("url.scheme", "the scheme must be http or https")
    if text[scheme.end() : scheme.end() + 2] != "//":
        raise UrlRefused("url.authority", f"{name}: must be followed by // and a host")
    rest = text[scheme.end() + 2 :].partition("#")[0]
    end = re.search(r"[/?]|$", rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    path, _, query = tail.partition("?")
    host, port = _authority(authority)
    return Url(
        scheme="https" if name == "https" else "http",
        host=host,
        port=_DEFAULT_PORTS[name] if port is None else port,
        path=canonical_path(path),
        query=canonical_query(query),
    )


def _check_characters(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise UrlRefused(
            "url.length", f"the URL has {len(text):,} characters; at most {MAX_LENGTH:,} are taken"
        )
    # Beyond ASCII only the host may go: it has one canonical form there, while paths have several.
    found = _UNSAFE.search(text)
    if found is None:
        return
    if found[0] == "\\":
        raise UrlRefused("url.characters", "the URL has a backslash, which some parsers take for a slash")
    if not found[0].isascii():
        start = text.find("//")
        end = re.search(r"[/?#]", text[start + 2 :]) if start >= 0 else None
        stop = len(text) if end is None else start + 2 + end.start()
        rest = text[:start] + text[stop:] if start >= 0 else text
        if not _UNSAFE.search(rest) and not re.search(r"[\x00-\x20\x7f\\]", text):
            return
        raise UrlRefused(
            "url.characters", "the URL has characters beyond ASCII: encode them as %XX of their UTF-8"
        )
    raise UrlRefused("url.characters", "the URL has a space or control character: encode it (a space is %20)")


def _authority(text: str) -> tuple[str, int | None]:
    if not text:
        raise UrlRefused("url.authority", "the URL has no host")
    if "@" in text:
        raise UrlRefused("url.userinfo", "the URL has a user name or password: give credentials in a header")
    if "%" in text and not text.startswith("["):
        raise UrlRefused("url.host", "the host must not be percent-encoded")
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        host += bracket
    else:
        host, colon, after = text.partition(":")
        after = colon + after
    if not after:
        return canonical_host(host), None
    if not after.startswith(":") or not _PORT.fullmatch(after[1:]) or int(after[1:]) > 65535:
        raise UrlRefused("url.port", "the port must be a number from 1 to 65535, without leading zeros")
    return canonical_host(host), int(after[1:])
