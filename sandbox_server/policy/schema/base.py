"""Values that occur all over a policy: quantities with units, names, references to secrets.

Each is written back by `policy/dump.py` as it can be read again: hence the serializers.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)

from sandbox_server.engines.profile import MIB
from sandbox_server.policy.units import (
    Rate,
    duration_text,
    parse_count,
    parse_duration,
    parse_rate,
    parse_size,
    parse_size_rate,
    rate_text,
    size_rate_text,
    size_text,
)

GIB: Final = 1024 * MIB


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(duration_text, when_used="json")]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(size_text, when_used="json")]
Count = Annotated[int, BeforeValidator(parse_count)]
PerTime = Annotated[Rate, BeforeValidator(parse_rate), PlainSerializer(rate_text, when_used="json")]
BytesPerTime = Annotated[
    Rate, BeforeValidator(parse_size_rate), PlainSerializer(size_rate_text, when_used="json")
]

Wall = Annotated[Duration, Field(ge=0.1, le=24 * 3600)]
Cpu = Annotated[Duration, Field(ge=1, le=24 * 3600)]
Memory = Annotated[Size, Field(ge=32 * MIB, le=1024 * GIB)]
Cpus = Annotated[float, Field(ge=0.05, le=256)]
Pids = Annotated[Count, Field(ge=8, le=32768)]
Tmpfs = Annotated[Size, Field(ge=64 * 1024, le=1024 * GIB)]
Kept = Annotated[Size, Field(ge=1024, le=64 * MIB)]

Seconds = Annotated[Duration, Field(ge=0.1, le=3600)]
Bytes = Annotated[Size, Field(ge=0, le=1024 * GIB)]

_NAME: Final = r"^[a-z][a-z0-9_-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=_NAME)]
"""Of roles, images, databases, profiles, named queries."""
RuleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Note = Annotated[str, StringConstraints(max_length=1000)]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]

TOOLS: Final = ("code_execution", "filesystem", "process", "sandbox", "web_api", "database")
ToolName = Literal["code_execution", "filesystem", "process", "sandbox", "web_api", "database"]

_SECRET: Final = re.compile(r"secret://([A-Za-z_][A-Za-z0-9_]{0,62})")


def secret_name(text: str) -> str | None:
    """`gh_token` of `secret://gh_token`, None if it is something else."""
    match = _SECRET.fullmatch(text)
    return match[1] if match else None


def _is_secret(value: str) -> str:
    if secret_name(value) is None:
        # The value is not shown: somebody may have put the secret itself here.
        raise ValueError("expected secret://NAME; a policy refers to a secret and never holds it")
    return value


SecretRef = Annotated[str, AfterValidator(_is_secret)]


class Rule(Strict):
    """What every rule may have. `observe`: what it would refuse is let through and recorded."""

    id: RuleId | None = None
    note: Note | None = None
    observe: bool = False


class AllowRule(Rule):
    """`ask`: the caller's human has to confirm. `observe` of a rule that allows: it does, and what it
    lets through is recorded as something that would be denied without it."""

    effect: Literal["allow", "ask"] = "allow"
