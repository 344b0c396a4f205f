"""The host of a URL or of a rule, in the one form that everything compares."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import idna

Reason = Literal[
    "url.length",
    "url.characters",
    "url.scheme",
    "url.authority",
    "url.userinfo",
    "url.port",
    "url.host",
    "url.host_number",
    "url.host_unicode",
    "url.host_single_label",
    "url.host_local",
    "url.host_metadata",
    "url.host_zone",
    "url.percent",
    "url.path",
    "url.query",
]


class UrlRefused(ValueError):
    """Why a URL is not taken. `reason` is for programs, the message for people and models."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOCAL = re.compile(
    r"(.+\.)?(localhost|localdomain|localhost6|localdomain6)"
    r"|ip6-(localhost|loopback|localnet|allnodes|allrouters)"
    r"|(host|gateway|kubernetes|vm)\.docker\.internal|host\.containers\.internal|host\.lima\.internal"
)
_METADATA = re.compile(
    r"metadata(\.google\.internal|\.goog|\.azure\.internal|\.tencentyun\.com)?|instance-data(\..+)?"
)


def canonical_host(text: str) -> str:
    """A lower-case A-label name of two labels or more, or an IP literal in its one canonical spelling
    (IPv6 in brackets, as it stands in a URL). Raises UrlRefused.
    """
    if text.startswith("["):
        return _ipv6(text)
    name = _to_ascii(text) if not text.isascii() else text.lower()
    if name.endswith("."):
        name = name[:-1]
    if not name or len(name) > 253:
        raise UrlRefused("url.host", "the host must have 1 to 253 characters")
    labels = name.split(".")
    last = labels[-1]
    if last[:1].isdigit():
        return _ipv4(name)
    for label in labels:
        _check_label(label)
    if _METADATA.fullmatch(name):
        raise UrlRefused("url.host_metadata", f"{name} is a cloud metadata service, which is never reached")
    if _LOCAL.fullmatch(name):
        raise UrlRefused("url.host_local", f"{name} means this host")
    if len(labels) < 2:
        raise UrlRefused(
            "url.host_single_label", f"{name} has a single label, which a search domain would complete"
        )
    return name


def _check_label(label: str) -> None:
    if not _LABEL.fullmatch(label):
        raise UrlRefused(
            "url.host",
            "the host must be labels of letters, digits and inner hyphens, with single dots between",
        )
    if label[2:4] != "--":
        return
    try:
        decoded = idna.decode(label, strict=True) if label.startswith("xn--") else ""
        same = bool(decoded) and idna.encode(decoded, strict=True) == label.encode()
    except idna.IDNAError:
        same = False
    if not same:
        raise UrlRefused("url.host", "the host has an A-label (xn--) that stands for no valid name")


def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except ValueError:
        raise UrlRefused(
            "url.host_number", "a host whose last label is a number must be an IPv4 address as a.b.c.d"
        ) from None


def _ipv6(text: str) -> str:
    if not text.endswith("]"):
        raise UrlRefused("url.host", "an IPv6 address must stand in brackets")
    if "%" in text:
        raise UrlRefused("url.host_zone", "an IPv6 address must not have a zone")
    try:
        return f"[{IPv6Address(text[1:-1])}]"
    except ValueError:
        raise UrlRefused("url.host", "what stands in brackets is not an IPv6 address") from None


def _to_ascii(text: str) -> str:
    """UTS 46, but refusing what it would mend: dots of other scripts, wide letters, invisible characters."""
    plain = unicodedata.normalize("NFC", text.lower())
    try:
        # The Kelvin sign's small letter is an ordinary k.
        signs = any(not each.isascii() and each.lower().isascii() for each in text)
        if signs or idna.uts46_remap(text, std3_rules=True) != plain:
            raise UrlRefused(
                "url.host_unicode",
                "the host has characters that only look like others: write it as it is registered",
            )
        name = idna.encode(plain, strict=True, std3_rules=True).decode()
    except idna.IDNAError:
        raise UrlRefused("url.host_unicode", "the host is not a valid internationalised name") from None
    return name
