"""What a policy would have to say to allow what was refused, or only observed: a proposal, never applied.

Only exact things are proposed (the host, the method, the path that were asked for), for the first role of
whoever asked. What a rule denies stays denied: taking that rule away is for a human to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import yaml
from pydantic import ValidationError

from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.document import Document
from sandbox_server.policy.engine import decide
from sandbox_server.policy.models import Policy
from sandbox_server.policy.proposals import compacted, propose
from sandbox_server.policy.records import recorded
from sandbox_server.policy.schema.file import PolicyFile

Tree = dict[str, Any]
_MOST: Final = 5000
"""Different calls; more than that is no list for a human."""
_STEPS: Final = 16
"""Additions for one call."""


@dataclass(frozen=True, slots=True)
class Left:
    """A call that no addition would allow, and why."""

    who: str
    tool: str
    why: str


@dataclass(slots=True)
class Lesson:
    """`addition` is what to add, in the shape of a policy file; lists in it are to be appended."""

    addition: Tree = field(default_factory=dict)
    allowed: int = 0
    """Calls that it would allow and that are refused now."""
    left: list[Left] = field(default_factory=list)
    unread: int = 0

    def yaml(self) -> str:
        return yaml.safe_dump(_listed(self.addition), sort_keys=False, allow_unicode=False, width=100)


def learn(policy: Policy, document: Document, entries: Iterable[Mapping[str, object]]) -> Lesson:
    """`document` is the policy's own. The addition has been tried: with it the policy loads, and allows."""
    lesson = Lesson()
    wanted: dict[tuple[str, str, str], tuple[Principal, Request]] = {}
    for entry in entries:
        if entry.get("kind", "decision") != "decision" or not _refused(entry):
            continue
        asked = recorded(entry)
        if asked is None:
            lesson.unread += 1
        elif len(wanted) < _MOST:
            wanted.setdefault((asked[0].key, asked[1].tool, repr(sorted(asked[1].args.items()))), asked)
    # One thing at a time: what follows may be allowed already by what was proposed before.
    now = policy
    for principal, request in wanted.values():
        now = _teach(now, policy, document, lesson, principal, request)
    lesson.addition = compacted(lesson.addition)
    return lesson


def _refused(entry: Mapping[str, object]) -> bool:
    return entry.get("decision") == "deny" or entry.get("would_deny") is True


def _teach(
    now: Policy, policy: Policy, document: Document, lesson: Lesson, principal: Principal, request: Request
) -> Policy:
    """The policy with what this call needs added, or as it was. A call may need several things, one after
    the other: the tool, then the host."""
    addition, changed = lesson.addition, now
    for _ in range(_STEPS):
        decision = decide(changed, principal, request)
        if decision.effect != "deny" and not decision.would_deny:
            lesson.allowed += 1
            lesson.addition = addition
            return changed
        roles = changed.compiled.membership(principal).roles
        granted = changed.compiled.effective(roles)
        piece = propose(granted, roles[0], request, decision) if roles else None
        if piece is None:
            break
        addition = merged(addition, piece)
        tried = _with(policy, document, addition)
        if tried is None:
            break
        changed = tried
    lesson.left.append(Left(principal.key, request.tool, f"{decision.rule}: {decision.message}"))
    return now


def _with(policy: Policy, document: Document, addition: Tree) -> Policy | None:
    """None if it does not load."""
    try:
        file = PolicyFile.model_validate(merged(cast("Tree", document.data), addition))
    except ValidationError:
        return None
    return policy.with_file(file)


def merged(base: Tree, addition: Tree) -> Tree:
    """Mappings key by key, lists one after the other without repeating."""
    found = dict(base)
    for key, value in addition.items():
        have = found.get(key)
        if isinstance(have, dict) and isinstance(value, dict):
            found[key] = merged(have, value)
        elif isinstance(have, tuple) and isinstance(value, tuple):
            found[key] = (*have, *(each for each in value if each not in have))
        else:
            found[key] = value
    return found


def _listed(value: Any) -> Any:
    """As YAML writes it."""
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, tuple) else value
