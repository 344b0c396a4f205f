"""A decision as a plain value: what the decision log keeps, `explain` prints, and both can be read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from sandbox_server.errors import ConfigError
from sandbox_server.policy.decision import Decision, Json, Principal, Request
from sandbox_server.policy.document import MAX_BYTES

_IDENTITY = ("sub", "iss", "client_id")


def decision_record(
    principal: Principal, request: Request, decision: Decision, *, claims: Iterable[str] = ()
) -> dict[str, Json]:
    """`claims`: names of those that the policy looks at; others are nobody's business."""
    return {
        "revision": decision.revision,
        "principal": {
            "iss": principal.iss,
            "sub": principal.sub,
            "client_id": principal.client_id,
            "authenticated": principal.authenticated,
            "claims": {name: principal.claims[name] for name in claims if name in principal.claims},
        },
        "tool": request.tool,
        "args": dict(request.args),
        "resource": dict(decision.canonical),
        "decision": decision.effect,
        "rule": decision.rule,
        "reason": decision.reason,
        "would_deny": decision.would_deny,
        "message": decision.message,
        "hint": decision.hint,
        "nearest": decision.nearest,
        "limits": {
            name: {"value": limit.value, "source": limit.source} | ({"per": limit.per} if limit.per else {})
            for name, limit in decision.limits.items()
        },
        "trace": decision.trace,
    }


def read_principal(file: Path | None) -> Principal:
    """Of a JSON file of a token's claims; None: the caller without a token. Raises ConfigError."""
    if file is None:
        return Principal()
    try:
        with file.open("rb") as stream:
            found = json.loads(stream.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: {error}", hint="give a JSON file of claims") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: expected a JSON object", hint="give a JSON file of claims")
    return principal_of(frozen(found))


def principal_of(claims: Mapping[str, Json]) -> Principal:
    """Of a token's claims, as they are given to `--as`. No claims: the caller without a token."""
    if not claims:
        return Principal()
    sub, iss, client = (_claimed(claims, name) for name in _IDENTITY)
    return Principal(
        sub=sub or "anonymous",
        iss=iss,
        client_id=client or _claimed(claims, "azp"),
        claims=claims,
        authenticated=True,
    )


def _claimed(claims: Mapping[str, Json], name: str) -> str | None:
    value = claims.get(name)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{name} must be text", hint="give the claims as the token holds them")
    return value


def recorded(entry: Mapping[str, object]) -> tuple[Principal, Request] | None:
    """Who asked for what, of a line of the log; None if it does not say so in full."""
    who, tool, args = entry.get("principal"), entry.get("tool"), entry.get("args")
    if not isinstance(who, Mapping) or not isinstance(tool, str) or not isinstance(args, Mapping):
        return None
    claims = who.get("claims")
    principal = Principal(
        sub=_text(who.get("sub")) or "anonymous",
        iss=_text(who.get("iss")),
        client_id=_text(who.get("client_id")),
        claims=frozen(claims) if isinstance(claims, Mapping) else {},
        authenticated=who.get("authenticated") is True,
    )
    request = _unmasked(tool, args)
    return None if request is None else (principal, request)


def _unmasked(tool: str, args: Mapping[str, object]) -> Request | None:
    """What was logged as a hash or not at all is stood in for where no rule looks at it."""
    found: dict[str, Json] = {}
    for name, value in args.items():
        hidden = isinstance(value, Mapping) and set(value) <= {"sha256", "bytes"}
        if hidden and tool == "database" and name in ("query", "sql", "statement"):
            return None
        found[name] = "" if hidden else _frozen_value(value)
    return Request(tool, found)


def frozen(value: Mapping[str, object]) -> dict[str, Json]:
    """Parsed JSON as the values that requests and claims are made of."""
    return {str(name): _frozen_value(each) for name, each in value.items()}


def _frozen_value(value: object) -> Json:
    if isinstance(value, Mapping):
        return frozen(value)
    if isinstance(value, list | tuple):
        return tuple(_frozen_value(each) for each in value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
