"""What is asked of the policy, and what it answers: plain values, logged and explained as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Effect = Literal["allow", "deny", "ask"]
Json = None | bool | int | float | str | tuple["Json", ...] | Mapping[str, "Json"]

NOTHING: Mapping[str, Json] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `claims` are a verified token's; the local caller, who has none, is not `authenticated`."""

    sub: str = "anonymous"
    iss: str | None = None
    client_id: str | None = None
    claims: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    authenticated: bool = False

    @property
    def key(self) -> str:
        """What quotas and sessions go by: issuer and subject together, and no two of them have the same."""
        sub = _without_hash(self.sub)
        return sub if self.iss is None else f"{_without_hash(self.iss)}#{sub}"


def _without_hash(part: str) -> str:
    return part.replace("%", "%25").replace("#", "%23")


@dataclass(frozen=True, slots=True)
class Request:
    """A call in the words of its tool: the arguments as the caller sent them, already valid for its schema.

    `tool` is a tool's name, or "egress" for a connection out of a sandbox (args: profile, host, port,
    scheme, and where they can be seen method and path), "resource" (uri) or "prompt" (name).
    """

    tool: str
    args: Mapping[str, Json] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that holds for the call (bytes, seconds, counts), and where in the policy it comes from.

    `per`: the number is for so many seconds, as a quota's is.
    """

    value: float | int
    source: str
    per: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and why.

    `rule` is the path of what decided (`roles.analyst.web.allow[gh-read]`, `floor.metadata_address`,
    `default`), `reason` a code for programs (`web.no_rule`, `sql.forbidden_node`), `message` and `hint`
    are for people and models; `nearest` says what would have been allowed. `would_deny` is set where the
    policy only observes: then `effect` is allow, and rule and reason are those of the denial. `canonical`
    is what was judged: the rebuilt URL, the re-serialised SQL, the normal path. `grant` is what the
    enforcement needs of the rule that allowed: a type of `policy/grants.py`, never serialised. `retry_after`
    is set where a quota is used up: seconds until it has room again.
    """

    effect: Effect
    rule: str
    reason: str
    message: str
    revision: str
    hint: str = ""
    nearest: str = ""
    would_deny: bool = False
    canonical: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    limits: Mapping[str, Limit] = field(default_factory=lambda: MappingProxyType({}))
    trace: tuple[str, ...] = ()
    grant: object = field(default=None, compare=False, repr=False)
    retry_after: float | None = None
