"""Path and query of a URL in canonical form, and globs over paths."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from sandbox_server.guards.names import UrlRefused

_UNRESERVED: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_ENCODED = {character: f"%{ord(character):02X}" for character in '"<>^`{|}'}
_ENCODE = str.maketrans(_ENCODED)
_PERCENT = re.compile(r"%(..?)?", re.DOTALL)
_HEX = re.compile(r"[0-9A-Fa-f]{2}")
_PARAMETERS = re.compile(";|%3B")
_DOUBLE = re.compile(r"%25(2e|2f|5c|25|0|1|7f)", re.IGNORECASE)


def canonical_path(text: str) -> str:
    """Begins with a slash; dot segments, also encoded ones, are resolved; what needs no encoding has none.

    Raises UrlRefused for an encoded slash, backslash or control character and for double encoding: servers
    differ on what these mean, and a rule for paths would judge another path than the one that is served.
    """
    path = _percent(text, "url.path").translate(_ENCODE) or "/"
    if re.search(r"%(2F|5C)", path):
        raise UrlRefused(
            "url.path", "the path has an encoded slash or backslash, which servers read differently"
        )
    if _DOUBLE.search(path):
        raise UrlRefused("url.path", "the path is encoded twice")
    return _without_dots(path)


def canonical_query(text: str) -> str:
    """Raises UrlRefused for bad encoding. Line breaks may be encoded: forms have them."""
    return _percent(text, "url.query").translate(_ENCODE)


def _percent(text: str, reason: str) -> str:
    def canonical(match: re.Match[str]) -> str:
        digits = match[1] or ""
        if not _HEX.fullmatch(digits):
            raise UrlRefused(
                "url.percent", "a % must be followed by two hexadecimal digits (write %25 for %)"
            )
        code = int(digits, 16)
        if code == 0 or (reason == "url.path" and (code < 0x20 or code == 0x7F)):
            raise UrlRefused("url.percent", f"%{digits} is an encoded control character")
        return chr(code) if chr(code) in _UNRESERVED else f"%{digits.upper()}"

    return _PERCENT.sub(canonical, text) if "%" in text else text


def _without_dots(path: str) -> str:
    if "." not in path:
        return path
    kept: list[str] = []
    dots = False
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        # Some servers decode the sign first and cut then, others the other way round.
        name = _PARAMETERS.split(segment, maxsplit=1)[0]
        if name in (".", ".."):
            if segment != name:
                raise UrlRefused("url.path", "the path has a dot segment with parameters")
            dots = True
            if name == ".." and kept:
                kept.pop()
            if index == len(segments) - 1:
                kept.append("")
        else:
            kept.append(segment)
    if dots and "" in segments[:-1]:
        raise UrlRefused(
            "url.path", "the path has dot segments and empty ones, whose order servers read differently"
        )
    return "/" + "/".join(kept)


@lru_cache(maxsize=128)
def readings(path: str) -> frozenset[str]:
    """The paths that a server may take this one for: with or without empty segments and parameters, whose
    sign may be encoded."""
    found = (path, re.sub(r";[^/]*", "", path), re.sub(r"(;|%3B)[^/]*", "", path))
    return frozenset((*found, *(re.sub(r"/{2,}", "/", each) for each in found)))
