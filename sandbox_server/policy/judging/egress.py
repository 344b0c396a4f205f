"""Connections out of a sandbox: what of them can be seen is judged, at first host and port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from sandbox_server.guards.urls import Url, UrlRefused, parse_url
from sandbox_server.guards.web import EgressGrant, EgressLimits
from sandbox_server.policy.decision import Json, Limit
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.hostrules import Destination, HostRule
from sandbox_server.policy.judging.hosts import Outcome, allowing, weigh
from sandbox_server.policy.judging.judgment import Judgment, floor, listing, text
from sandbox_server.policy.judging.web import address_refused, never_spoken_to


def judge(granted: Effective, args: Mapping[str, Json]) -> Judgment:
    """`profile` is that of the sandbox; `method` and `path` are there only where they are seen."""
    profile = text(args, "profile")
    rules = granted.egress.profiles.get(profile)
    if rules is None:
        names, message = listing(granted.egress.profiles), "this egress profile is not granted"
        shown: dict[str, Json] = {"profile": profile[:64]}
        return Judgment("deny", "default", "egress.profile", message, f"granted: {names}", names, shown)
    try:
        url = _url(args)
    except UrlRefused as error:
        return floor(error.reason, str(error), rule="url")
    where = _destination(url, args)
    shown = {"profile": profile, "scheme": where.scheme, "host": where.host, "port": where.port}
    if where.method is not None:
        shown |= {"method": where.method, "path": where.path}
    if never_spoken_to(url):
        return floor("metadata_address", "an address that is never spoken to", canonical=shown)
    limits = _limits(granted.egress.limits[profile], f"egress.profiles.{profile}")
    return _judged(weigh(*rules, where), url, shown, {**granted.quotas, **limits})


def _limits(profile: EgressLimits, at: str) -> dict[str, Limit]:
    values = asdict(profile)
    count, seconds = values.pop("rate")
    # A quota is called `burst`, too.
    burst = {"rate_burst": Limit(values.pop("burst"), f"{at}.burst")}
    found = {key: Limit(value, f"{at}.{key}") for key, value in values.items()}
    return {**found, "rate": Limit(count, f"{at}.rate", seconds), **burst}


def _url(args: Mapping[str, Json]) -> Url:
    """Through the one parser, like everything that is connected to. Raises UrlRefused."""
    host, port = text(args, "host"), args.get("port")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError("port is not a number")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    if any(character in host for character in "/?#@\\"):
        raise UrlRefused("url.host", "the host holds characters that none can have")
    scheme = "http" if text(args, "scheme", "https") == "http" else "https"
    path = text(args, "path", "/") if args.get("method") is not None else "/"
    return parse_url(f"{scheme}://{host}:{port}{path}")


def _destination(url: Url, args: Mapping[str, Json]) -> Destination:
    if args.get("method") is None:
        return Destination(url.scheme, url.host, url.port)
    return Destination(url.scheme, url.host, url.port, text(args, "method").upper(), url.path)


def _judged(found: Outcome, url: Url, shown: Mapping[str, Json], limits: Mapping[str, Limit]) -> Judgment:
    missing = f"no rule allows this {found.unmet}"
    rule = allowing(found, "egress", "the policy denies this connection", missing, shown)
    if isinstance(rule, Judgment):
        grant = EgressGrant(rule.rule) if found.rule is None else _grant(found.rule, url)
        return replace(rule, limits=limits, grant=grant)
    return address_refused(url, rule, shown, "egress") or Judgment(
        "ask" if found.ask else "allow",
        rule.source,
        "allowed",
        canonical=shown,
        limits=limits,
        grant=_grant(rule, url),
        observed=found.observed,
        trace=(f"allow: {rule.source}",),
    )


def _grant(rule: HostRule, url: Url) -> EgressGrant:
    return EgressGrant(
        rule.source,
        rule.addresses,
        rule.opaque,
        rule.terminate,
        rule.inject,
        rule.cache,
        rule.pattern(url.host),
    )
