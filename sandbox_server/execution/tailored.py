"""A sandbox for one session: the policy's profile with what the caller chose of it. Pure."""

from __future__ import annotations

from dataclasses import replace

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import InvalidRequest, LimitExceeded
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.models import SessionLimits

_LEAST = SessionLimits(memory=32 * 1024**2, cpus=0.05, pids=8, workspace=64 * 1024)


def profile_for(asked: SessionLimits, grant: Grant) -> Profile:
    """The grant's profile with what the caller chose of it.

    Raises LimitExceeded above what the policy allows and InvalidRequest for what can't work.
    """
    own, widest = grant.profile.limits, grant.widest or grant.profile.limits
    chosen = {name: value for name in SessionLimits.NAMES if (value := getattr(asked, name)) is not None}
    if not chosen:
        return grant.profile
    for name, value in chosen.items():
        least, most = getattr(_LEAST, name), getattr(widest, name)
        if not value >= least:
            raise InvalidRequest(f"{name} {value:g} is too small", hint=f"ask for at least {least:g}")
        if value > most:
            raise LimitExceeded(
                f"{name} {value:g} is above what the policy allows, {most:g}",
                hint=f"ask for {most:g} or less",
            )
    limits = replace(own, **chosen)
    # As the policy has it: a file may fill the workspace, or has a limit of its own.
    whole = own.file_size == own.workspace
    limits = replace(limits, file_size=limits.workspace if whole else min(own.file_size, limits.workspace))
    tmpfs = limits.workspace + limits.tmp + limits.shm
    if tmpfs >= limits.memory:
        raise InvalidRequest(
            f"workspace, /tmp and /dev/shm are {tmpfs} bytes together and count as memory, "
            f"which would be {limits.memory}",
            hint="ask for more memory or a smaller workspace",
        )
    return replace(grant.profile, limits=limits)
