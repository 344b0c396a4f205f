"""Our seccomp profile, in the form that the engine's API wants: text inside the payload, not a path."""

from __future__ import annotations

import json
from pathlib import Path

from sandbox_server.errors import ConfigError


def load_seccomp(path: Path) -> str:
    """The profile as one compact line of JSON, without its comments.

    Raises ConfigError if it can't be read or lets through what it doesn't name.
    """
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the seccomp profile is not readable: {error}", hint="reinstall the package"
        ) from error
    # A profile whose default is to allow would silently turn the allowlist into nothing.
    if not isinstance(profile, dict) or profile.get("defaultAction") != "SCMP_ACT_ERRNO":
        raise ConfigError("the seccomp profile does not deny by default", hint="reinstall the package")
    for rule in profile["syscalls"]:
        rule.pop("comment", None)
    return json.dumps(profile, separators=(",", ":"))
