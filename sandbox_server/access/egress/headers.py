"""Headers on their way through: what belongs to one hop stays there, what is injected replaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sandbox_server.access.egress.models import Refused
from sandbox_server.access.http.headers import overrides
from sandbox_server.access.redaction import StreamRedactor

Headers = list[tuple[bytes, bytes]]
_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"alt-svc",
    )
)
_NEVER_NAMED = frozenset((b"host", b"content-length", b"content-type", b"authorization", b"cookie"))
"""A Connection header must not take away what the request means."""
MOST_HEADERS = 100


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for each, value in headers if each == name]


def check_framing(headers: Headers) -> None:
    """Raises Refused for what two servers may cut into requests differently."""
    lengths, codings = values(headers, b"content-length"), values(headers, b"transfer-encoding")
    if len(headers) > MOST_HEADERS:
        raise Refused(f"the request has more than {MOST_HEADERS} headers", status=431)
    if codings and lengths:
        raise Refused("the request has both Content-Length and Transfer-Encoding", status=400)
    if len(lengths) > 1 or len(codings) > 1:
        raise Refused("the request says its length twice", status=400)
    if codings and codings[0].strip().lower() != b"chunked":
        raise Refused("of transfer codings only chunked is taken", status=501)


def check_meaning(headers: Headers) -> None:
    """Raises Refused for what makes a server see another request than the one that is judged."""
    for name, _ in headers:
        if overrides(name.decode("ascii")):
            raise Refused(
                f"{name.decode('ascii')} makes another request of it than was judged",
                rule="floor.http",
                hint="send the method, host and path that you mean",
                status=400,
            )


def wants_upgrade(headers: Headers) -> bool:
    return bool(values(headers, b"upgrade"))


def _named(headers: Headers) -> set[bytes]:
    """What Connection says belongs to this hop, too."""
    found = {part.strip().lower() for value in values(headers, b"connection") for part in value.split(b",")}
    return found - _NEVER_NAMED


def outgoing(headers: Headers, authority: str, inject: Mapping[str, str]) -> Headers:
    """A request's headers as the server gets them. `inject` has the values already."""
    ours = {_plain(name.lower().encode()) for name in inject}
    dropped = _HOP | _named(headers) | {b"host", b"expect"}
    if inject:
        # What comes back is searched for the secret, which compression or a cut would hide.
        dropped |= {b"accept-encoding", b"range", b"if-range"}
    kept = [(name, value) for name, value in headers if name not in dropped and _plain(name) not in ours]
    if values(headers, b"transfer-encoding"):
        kept.append((b"transfer-encoding", b"chunked"))
    added = [(name.encode(), value.encode("latin-1")) for name, value in inject.items()]
    if inject:
        added.append((b"accept-encoding", b"identity"))
    return [(b"host", authority.encode()), *kept, *added, (b"connection", b"close")]


def _plain(name: bytes) -> bytes:
    """Behind CGI and its kin both signs are the same."""
    return name.replace(b"_", b"-")


def incoming(headers: Headers, mask: StreamRedactor) -> Headers:
    """A response's headers as the program gets them."""
    dropped = _HOP | _named(headers)
    return [(name, mask.whole(value)) for name, value in headers if name not in dropped]
