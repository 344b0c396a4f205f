"""What becomes of a session when the policy changes under it. Pure."""

from __future__ import annotations

from dataclasses import fields, replace

from sandbox_server.engines.profile import Profile, SandboxLimits
from sandbox_server.execution.grants import Grant, Rights


def way_out_now(profile: Profile, egress: str | None, rights: Rights) -> str | None:
    """Which way out a session with `profile` is to have now: its own, if that is still granted."""
    granted = [grant.egress for grant in _alike(profile, rights)]
    return egress if egress in granted else next(iter(granted), None)


def retained(profile: Profile, egress: str | None, rights: Rights, *, own: bool) -> Profile | None:
    """What a session with `profile` is to have now, its way out being `egress`; None if its caller has no
    right to any such. One that is a connection's `own` has what the policy says, one that a caller has made
    what it was made with."""
    alike = [grant for grant in _alike(profile, rights) if grant.egress == egress]
    if own:
        profiles = [grant.profile for grant in alike]
        return next((each for each in profiles if fits(profile, each)), None) or next(iter(profiles), None)
    if any(_may_be_made(profile, grant) for grant in alike):
        return replace(profile, revision=alike[0].profile.revision)
    return None


def _alike(profile: Profile, rights: Rights) -> list[Grant]:
    return [grant for grant in rights.languages.values() if _kind(grant.profile) == _kind(profile)]


def fits(old: Profile, new: Profile) -> bool:
    """Whether a sandbox made for `old` has no more than one made for `new` would have."""
    return _within(old.limits, new.limits)


def _may_be_made(profile: Profile, grant: Grant) -> bool:
    """Whether a caller could ask for it."""
    own, widest = grant.profile.limits, grant.widest or grant.profile.limits
    most = replace(
        own,
        memory=max(own.memory, widest.memory),
        cpus=max(own.cpus, widest.cpus),
        pids=max(own.pids, widest.pids),
        workspace=max(own.workspace, widest.workspace),
        file_size=max(own.file_size, widest.workspace),
    )
    return _within(profile.limits, most)


def _kind(profile: Profile) -> tuple[str, str, str]:
    return profile.image, profile.runtime, profile.seccomp


def _within(limits: SandboxLimits, most: SandboxLimits) -> bool:
    return all(getattr(limits, each.name) <= getattr(most, each.name) for each in fields(SandboxLimits))
