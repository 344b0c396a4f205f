"""What a session's caller may do with it: which languages run in it, by which way out, and for how long."""

from __future__ import annotations

from sandbox_server.errors import InvalidRequest, LimitExceeded, PolicyDenied
from sandbox_server.execution.grants import Grant, Rights
from sandbox_server.execution.regranting import fits, retained
from sandbox_server.execution.session import Session

_EVERYWHERE = "bash"
"""Every image has it."""


def check_language(grant: Grant, session: Session, rights: Rights) -> None:
    """Raises InvalidRequest for a language that the session's image does not have, or that the policy
    gives another way out: in a sandbox there is only one."""
    if not _runs_in(grant, session):
        names = languages_of(session, rights)
        raise InvalidRequest(
            f"{grant.language.name} does not run in a session with image '{session.profile.image}', "
            f"which runs {', '.join(names)}",
            hint=f"nothing was run; create a session with language {grant.language.name}",
        )
    if grant.egress != session.egress:
        raise InvalidRequest(
            f"{grant.language.name} does not run in a session whose egress profile is "
            f"{session.egress or 'none'}: its own is {grant.egress or 'none'}",
            hint=f"nothing was run; create a session with language {grant.language.name}",
        )


def check_right(session: Session, rights: Rights) -> None:
    """Before anything runs in the session. Raises PolicyDenied if this caller could not have one like it
    now: its principal may have made it with another token, which grants more."""
    granted = {grant.egress for grant in rights.languages.values()}
    if session.egress is not None and session.egress not in granted:
        raise PolicyDenied(
            f"this session has the egress profile {session.egress}, which the policy does not grant you",
            rule="code.egress",
            hint="nothing was run; create another session",
        )
    now = retained(session.profile, session.egress, rights, own=not session.explicit)
    if now is None or not fits(session.profile, now):
        raise PolicyDenied(
            f"this session has the image {session.profile.image} with limits that the policy does not "
            "grant you",
            rule="code.languages",
            hint="nothing was run; create another session",
        )


def languages_of(session: Session, rights: Rights) -> tuple[str, ...]:
    """Those that its caller may run in it."""
    return tuple(
        name
        for name, grant in rights.languages.items()
        if _runs_in(grant, session) and grant.egress == session.egress
    )


def ttl_of(asked: float | None, most: float) -> float:
    """Seconds that a new session may live. Raises InvalidRequest and LimitExceeded."""
    if asked is None:
        return most
    if not asked > 0:
        raise InvalidRequest("ttl must be more than 0 seconds", hint="leave it out for the most")
    if asked > most:
        raise LimitExceeded(
            f"ttl {asked:g} s is above the limit, {most:g} s", hint=f"ask for {most:g} or less"
        )
    return asked


def _runs_in(grant: Grant, session: Session) -> bool:
    return grant.profile.image == session.profile.image or grant.language.name == _EVERYWHERE
