"""What web requests and connections out of sandboxes have in common: rules by host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sandbox_server.policy.decision import Json
from sandbox_server.policy.hostrules import Destination, HostIndex, HostRule
from sandbox_server.policy.judging.judgment import Judgment, listing
from sandbox_server.policy.judging.nearness import closest

_ORDER = ("host", "scheme", "port", "path", "method", "body")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`rule` allows (`ask`: if the human agrees), unless `denied`: then a policy that only observes goes by
    it. `observed`: would have denied. `unmet` is what the rule that came closest still asks for, "host" if
    none is about the host."""

    rule: HostRule | None = None
    ask: bool = False
    denied: HostRule | None = None
    observed: str = ""
    unmet: str = "host"
    closest: str = ""
    nearest: str = ""


def weigh(allow: HostIndex, deny: HostIndex, where: Destination, *, size: int = 0) -> Outcome:
    """`size`: bytes that are sent."""
    matched: list[HostRule] = []
    unmet, closest = "host", ""
    about = list(allow.about(where.host))
    for rule in about:
        missing = rule.unmet(where)
        if not missing and rule.request_body is not None and size > rule.request_body:
            missing = "body"
        if not missing:
            matched.append(rule)
        elif _ORDER.index(missing) > _ORDER.index(unmet):
            unmet, closest = missing, rule.source
    asking = next((rule for rule in matched if rule.ask), None)
    plain = next((rule for rule in matched if not rule.observe), None)
    chosen = asking or plain or (matched[0] if matched else None)
    observed = chosen.source if chosen is not None and chosen.observe else ""
    for rule in deny.about(where.host):
        if rule.forbids(where, seen_later=chosen is not None and chosen.terminate):
            if not rule.observe:
                return Outcome(chosen, denied=rule, unmet="")
            observed = rule.source
    if chosen is not None:
        return Outcome(chosen, asking is not None, observed=observed, unmet="")
    nearest = _nearest(allow, about, unmet, where)
    return Outcome(observed=observed, unmet=unmet, closest=closest, nearest=nearest)


def allowing(
    found: Outcome, kind: str, denied: str, missing: str, shown: Mapping[str, Json], *, hint: str = ""
) -> HostRule | Judgment:
    """The rule that allows it, or the denial. `kind` begins the reason; `denied` is said where a rule denies
    (with `hint`), `missing` where none allows."""
    if found.denied is not None:
        rule = found.denied.source
        return Judgment(
            "deny", rule, f"{kind}.denied", denied, hint, canonical=shown, observable=True,
            trace=(f"deny: {rule}",),
        )  # fmt: skip
    if found.rule is not None:
        return found.rule
    near = (f"nearest: {found.closest}, but {found.unmet}",) if found.closest else ()
    reason = "no_rule" if found.unmet == "host" else found.unmet
    return Judgment(
        "deny", "default", f"{kind}.{reason}", missing, f"allowed: {found.nearest}", found.nearest, shown,
        observable=True, trace=(*near, "default: no rule allows it"),
    )  # fmt: skip


def _nearest(allow: HostIndex, about: list[HostRule], unmet: str, where: Destination) -> str:
    """What would have been allowed."""
    match unmet:
        case "host":
            near = allow.near(where.host)
            close = closest(where.host, near, 3)
            return listing(close or near[:5])
        case "scheme":
            return listing(f"{each}://" for each in sorted({s for rule in about for s in rule.schemes or ()}))
        case "port":
            ports = {p.port for rule in about for p in rule.hosts if p.port and p.matches(where.host)}
            ports |= {port for rule in about for port in rule.ports or ()}
            return "port " + listing(sorted(ports) or ["443"])
        case "method":
            return listing(sorted({method for rule in about for method in rule.methods or ()}))
        case "path":
            return listing(dict.fromkeys(str(glob) for rule in about for glob in rule.paths or ()))
    most = max((rule.request_body for rule in about if rule.request_body is not None), default=0)
    return f"{most} bytes"
