"""Requests of the tool `web_api`; each hop of a redirect is one of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Final

from sandbox_server.guards import addresses
from sandbox_server.guards.urls import Url, UrlRefused, parse_url
from sandbox_server.guards.web import WebGrant, WebLimits
from sandbox_server.policy.decision import Json, Limit
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.hostrules import Destination, HostRule
from sandbox_server.policy.judging.hosts import Outcome, allowing, weigh
from sandbox_server.policy.judging.judgment import Judgment, floor, number, text

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_WHAT: Final[Mapping[str, str]] = {
    "host": "no rule allows this host",
    "scheme": "this scheme is not allowed for the host",
    "port": "this port is not allowed for the host",
    "method": "this method is not allowed here",
    "path": "this path is not allowed on the host",
    "body": "the request's body is larger than the rule allows",
}


def judge(granted: Effective, args: Mapping[str, Json]) -> Judgment:
    method = text(args, "method", "GET").upper()
    try:
        url = parse_url(text(args, "url"))
    except UrlRefused as error:
        return floor(error.reason, str(error), hint="write it plainly: https://host/path?query", rule="url")
    shown: dict[str, Json] = {"method": method, "url": str(url)}
    if method not in METHODS:
        return floor("web.method", "this method is not known", canonical=shown)
    if never_spoken_to(url):
        return floor("metadata_address", "an address that is never spoken to", canonical=shown)
    size = _size(args.get("data"))
    where = Destination(url.scheme, url.host, url.port, method, url.path)
    found = weigh(granted.web.allow, granted.web.deny, where, size=size)
    judged = _judged(found, url, shown)
    if judged.effect == "deny" and not judged.observable:
        return judged
    limits, sources = _limits(granted, found.rule)
    if size > limits.request_body and judged.effect != "deny":
        most, rule = f"{limits.request_body} bytes", sources["request_body"].source
        return Judgment("deny", rule, "web.body", _WHAT["body"], f"at most {most}", most, shown, sources)
    timeout = number(args, "timeout")
    if timeout is not None and 0 < timeout < limits.total:
        limits = replace(limits, total=float(timeout))
        sources["total"] = Limit(timeout, "arguments.timeout")
    grant = _grant(found.rule, limits, judged.rule, url.host)
    return replace(judged, grant=grant, limits={**granted.quotas, **sources})


def never_spoken_to(url: Url) -> bool:
    """Whether the host is an address that even a rule that opens it can't open."""
    address = url.address
    return address is not None and addresses.judge(address, (ip_network(address),)) is not None


def address_refused(url: Url, rule: HostRule, shown: Mapping[str, Json], kind: str) -> Judgment | None:
    """A host that is a reserved address, which the rule has not opened."""
    address = url.address
    what = None if address is None else addresses.judge(address, rule.addresses)
    if what is None:
        return None
    return floor(
        f"{kind}.address",
        f"the host is {what}",
        hint=f"the operator can open it with addresses: in {rule.source}",
        canonical=shown,
        rule="address",
    )


def _judged(found: Outcome, url: Url, shown: Mapping[str, Json]) -> Judgment:
    hint = "another host or path, or ask the operator"
    missing = _WHAT.get(found.unmet, "")
    rule = allowing(found, "web", "the policy denies this request", missing, shown, hint=hint)
    if isinstance(rule, Judgment):
        return rule
    return address_refused(url, rule, shown, "web") or Judgment(
        "ask" if found.ask else "allow",
        rule.source,
        "allowed",
        canonical=shown,
        observed=found.observed,
        trace=(f"allow: {rule.source}",),
    )


def _limits(granted: Effective, rule: HostRule | None) -> tuple[WebLimits, dict[str, Limit]]:
    """The roles' limits, and what the rule says of its own instead."""
    sources = dict(granted.web.sources)
    if rule is None:
        return granted.web.limits, sources
    own: dict[str, Any] = dict(rule.limits)
    if rule.request_body is not None:
        own["request_body"] = rule.request_body
    if not own:
        return granted.web.limits, sources
    sources |= {key: Limit(value, rule.source) for key, value in own.items()}
    return replace(granted.web.limits, **own), sources


def _grant(rule: HostRule | None, limits: WebLimits, name: str, host: str) -> WebGrant:
    if rule is None:
        return WebGrant(name, limits=limits)
    return WebGrant(rule.source, rule.addresses, rule.inject, limits, rule.rate, rule.pattern(host))


def _size(data: Json) -> int:
    if data is None:
        return 0
    written = data if isinstance(data, str) else json.dumps(data, default=_plain, ensure_ascii=False)
    return len(written.encode("utf-8", "surrogatepass"))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError("not JSON")
