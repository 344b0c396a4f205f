"""Labels and names of our containers: what the sweep, the reaper and other servers go by.

Nothing in them comes from a caller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from uuid import uuid4

from sandbox_server.engines.base import Owner
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import ConfigError

INSTANCE = "sbx.instance"
BOOT_ID = "sbx.boot_id"
DEADLINE = "sbx.deadline"
POLICY_REV = "sbx.policy_rev"
UID = "sbx.uid"

_INSTANCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def check_owner(owner: Owner) -> None:
    """Raises ConfigError unless `owner.instance` can name a label value and a control group."""
    if not _INSTANCE_NAME.fullmatch(owner.instance):
        raise ConfigError(
            f"instance name {owner.instance!r} is not usable",
            hint="use 1 to 63 letters, digits, '_', '.' or '-', beginning with a letter or digit",
        )


def new_name() -> str:
    """A container name that nobody can guess and that never collides."""
    return f"sbx-{uuid4().hex}"


def make_labels(owner: Owner, profile: Profile, *, uid: int, deadline: float) -> dict[str, str]:
    """The labels of one container. `deadline` is a Unix time in seconds."""
    return {
        INSTANCE: owner.instance,
        BOOT_ID: owner.boot_id,
        DEADLINE: str(math.ceil(deadline)),
        POLICY_REV: profile.revision,
        UID: str(uid),
    }


def read_deadline(labels: Mapping[str, str]) -> float:
    """When the container may be reaped. An unreadable label means at once: ours are always readable."""
    try:
        return float(labels.get(DEADLINE, ""))
    except ValueError:
        return 0.0


def read_uid(labels: Mapping[str, str]) -> int | None:
    """The host uid that a container runs as, if its label says so."""
    value = labels.get(UID, "")
    return int(value) if value.isdecimal() else None
