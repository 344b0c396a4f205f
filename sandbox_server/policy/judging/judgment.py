"""What a judge says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sandbox_server.policy.decision import NOTHING, Effect, Json, Limit


@dataclass(frozen=True, slots=True)
class Judgment:
    """As `Decision`. `observed` is the rule that would have denied, had it not been set to observe.

    `observable`: a policy that only observes may let it through, with `grant`. What belongs to the floor is
    not, nor what can't be carried out without a rule that allows (which image? which connection?).
    """

    effect: Effect
    rule: str
    reason: str
    message: str = ""
    hint: str = ""
    nearest: str = ""
    canonical: Mapping[str, Json] = field(default_factory=lambda: NOTHING)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    trace: tuple[str, ...] = ()
    grant: object = None
    observed: str = ""
    observable: bool = False


def floor(
    reason: str, message: str, *, hint: str = "", canonical: Mapping[str, Json] = NOTHING, rule: str = ""
) -> Judgment:
    """What no policy can allow."""
    rule = f"floor.{rule or reason}"
    return Judgment("deny", rule, reason, message, hint=hint, canonical=canonical, trace=(rule,))


def text(args: Mapping[str, Json], key: str, default: str = "") -> str:
    """A text among the arguments. They are valid for the tool's schema: anything else is denied as a bug."""
    value = args.get(key, default)
    if value is None:
        return default
    if not isinstance(value, str):
        raise TypeError(f"{key} is not text")
    return value


def number(args: Mapping[str, Json], key: str) -> float | None:
    value = args.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError(f"{key} is not a number")
    return value


def listing(names: Iterable[object]) -> str:
    """A few names for a message, however many there are."""
    found = [str(name) for name in names]
    shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
    return shown or "nothing"
