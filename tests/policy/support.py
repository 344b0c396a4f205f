"""Short words for policies and questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_server.errors import ConfigError
from sandbox_server.policy.decision import Decision, Json, Principal, Request
from sandbox_server.policy.engine import decide
from sandbox_server.policy.loader import parse_policy
from sandbox_server.policy.models import Policy

FIXTURES = Path(__file__).parent / "fixtures"
ANYBODY = Principal()


def person(sub: str = "a", iss: str | None = "https://idp.example.com", **claims: Json) -> Principal:
    return Principal(sub=sub, iss=iss, claims=claims, authenticated=True)


def policy_of(roles: str, rest: str = "") -> Policy:
    """`roles` is the YAML of that key, in one line."""
    text = f"schema: sandbox-policy/v1\nroles: {roles}\n{rest}"
    return parse_policy(text.encode(), source="p.yaml")


def refusal_of(roles: str, rest: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        policy_of(roles, rest)
    return caught.value.message


def ask(policy: Policy, tool: str, who: Principal = ANYBODY, **args: Json) -> Decision:
    return decide(policy, who, Request(tool, args))
