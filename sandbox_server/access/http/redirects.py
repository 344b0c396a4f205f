"""Where a redirect leads, and what of the request goes along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.access.http.headers import across_origins
from sandbox_server.errors import PolicyDenied
from sandbox_server.guards.urls import Url, UrlRefused

_FOLLOWED = frozenset({301, 302, 303, 307, 308})
"""300 and 304 to 306 are answers like any other, and so are Refresh headers and tags."""
_OF_THE_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-disposition"})


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The request of one hop. `headers` are the caller's."""

    method: str
    url: Url
    headers: Mapping[str, str]
    body: bytes | None


def follow(sent: Outgoing, status: int, location: str) -> Outgoing | None:
    """The next request, or None for an answer that is not a redirect. Raises PolicyDenied for one that
    leaves HTTPS, leads to no acceptable URL, or would carry a body to another origin.
    """
    if status not in _FOLLOWED or not location:
        return None
    try:
        url = sent.url.join(location)
    except UrlRefused as error:
        raise PolicyDenied(
            f"The server redirects to a URL that is not taken: {error}.", rule=f"floor.{error.reason}"
        ) from None
    if sent.url.scheme == "https" and url.scheme == "http":
        raise PolicyDenied(
            f"{sent.url.origin} redirects from https to http ({url.origin}).", rule="floor.https_to_http"
        )
    method, body, headers = sent.method, sent.body, dict(sent.headers)
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        method, body = "GET", None
        headers = {name: value for name, value in headers.items() if name not in _OF_THE_BODY}
    if url.origin != sent.url.origin:
        if body is not None:
            raise PolicyDenied(
                f"{sent.url.origin} redirects a {method} with its body to {url.origin}.",
                rule="floor.body_across_origins",
                hint="A body is not handed on to another origin: send it there yourself if that is right.",
            )
        headers = across_origins(headers)
    return Outgoing(method, url, headers, body)
