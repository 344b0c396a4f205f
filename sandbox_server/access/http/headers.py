"""Which headers go out, and which of those that come back are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from sandbox_server.errors import InvalidRequest
from sandbox_server.text import on_one_line

MAX_HEADERS = 50
MAX_BYTES = 16 * 1024
USER_AGENT = "mcp-sandbox-server"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OURS = re.compile(
    r"host|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-length|expect"
    r"|accept-encoding|http2-settings|alt-svc"
)
"""Of the connection, not of the request: the client sets them, a caller's are left out."""
_OVERRIDES = re.compile(
    r"x-http-method(-override)?|x-method-override|x-original-(url|uri|method|host)|x-rewrite-url"
    r"|x-forwarded-(host|port|proto|prefix|server|path|uri|method)|x-host|x-envoy-.*"
)
_REFUSED = re.compile(
    rf"{_OVERRIDES.pattern}|x-forwarded(-.*)?|forwarded|x-real-ip|via|(x-|true-|x-cluster-)?client-ip"
)
"""With these, servers take a request for another one than the policy has judged."""
_ACROSS_ORIGINS = frozenset({"accept", "accept-language", "user-agent"})
_SHOWN = re.compile(
    r"content-(type|language|disposition|range|location)|date|age|last-modified|etag|cache-control|expires|vary|link"
    r"|location|retry-after|allow|accept-ranges|accept-patch|www-authenticate|deprecation|sunset|warning"
    r"|(x-)?rate-?limit.*|x-(request|correlation)-id|x-total(-count|-pages)?|x-(next-|prev-)?page|x-per-page"
    r"|x-github-.*|x-gitlab-.*"
)


def check_headers(headers: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The caller's headers by lower-case name, and the names of those left out. Raises InvalidRequest."""
    if len(headers) > MAX_HEADERS or sum(len(k) + len(v) for k, v in headers.items()) > MAX_BYTES:
        raise _wrong(f"at most {MAX_HEADERS} with {MAX_BYTES:,} characters in all are taken")
    kept: dict[str, str] = {}
    dropped: list[str] = []
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            shown = on_one_line(name[:64])
            raise _wrong(f"the name '{shown}' has characters that no header's may have, or more than 64")
        if not _VALUE.fullmatch(value):
            raise _wrong(
                f"the value of {name} has control characters, line breaks or characters beyond ASCII"
            )
        lower = name.lower()
        # Behind CGI and its kin both signs are the same.
        plain = lower.replace("_", "-")
        if _REFUSED.fullmatch(plain):
            raise _wrong(f"{name} is not taken: it would make a server see another request than was judged")
        if lower in kept:
            raise _wrong(f"{name} is given twice")
        if _OURS.fullmatch(plain):
            dropped.append(lower)
        else:
            kept[lower] = value.strip()
    return kept, tuple(dropped)


def without(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """`headers` but for those that some server takes for one of `names`: behind CGI `_` is `-`."""
    gone = {name.replace("_", "-") for name in names}
    return {name: value for name, value in headers.items() if name.replace("_", "-") not in gone}


def overrides(name: str) -> bool:
    """Whether servers may take a request with this header for one of another method, path or host."""
    return _OVERRIDES.fullmatch(name.lower().replace("_", "-")) is not None


def across_origins(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a caller's headers another origin may see: credentials have many names."""
    return {name: value for name, value in headers.items() if name in _ACROSS_ORIGINS}


def shown_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if _SHOWN.fullmatch(name)]


def _wrong(what: str) -> InvalidRequest:
    return InvalidRequest(f"headers: {what}.", hint="Nothing was sent. Correct the headers and call again.")
