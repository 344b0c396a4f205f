"""Errors of ours. A program's failure is never one of these: it is an `Outcome`.

SandboxServerError
+ ConfigError          the operator can fix it            exit 78
  + ImageMissing       an image must be built             tool error; the server starts without it
+ InvalidRequest       the caller's arguments are wrong   tool error
+ PolicyDenied         the caller should do otherwise     tool error
+ LimitExceeded        ask for less                       tool error
+ NotFound             no such thing, or not the caller's tool error
+ Busy                 no capacity now, retry later       tool error with retry_after
  + QuotaExceeded      the caller's own quota is used up  tool error with retry_after
+ EngineUnavailable    the engine is down                 tool error, never shown as program output
+ AuditUnavailable     the decision log can't be written  tool error; nothing was run
+ UpstreamFailed       a remote server did not answer   tool error; what was asked for may have happened
  + UpstreamUnreachable  nothing was sent to it         tool error
+ DatabaseUnavailable  a database does not answer         tool error; nothing was run
+ ChangeUndecided      lost while committing            tool error; the change may be there
+ PackagesFailed       what was asked for could not be installed   tool error; nothing was run
+ SandboxLost          the sandbox died under a run       tool error; the code may have run
"""

from __future__ import annotations

from typing import ClassVar


class SandboxServerError(Exception):
    """Base of every error of ours.

    `message` says what and where, `hint` what to do next. Both may be shown to a
    model: they never hold secrets, host paths or tracebacks.
    """

    code: ClassVar[str] = "internal_error"
    retry_safe: ClassVar[bool] = False
    """Whether the same call can be sent again without running code twice."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(SandboxServerError):
    """The deployment is wrong in a way that only its operator can mend."""

    code = "config_error"


class ImageMissing(ConfigError):
    """A sandbox image is not on the engine. It can be built while the server runs."""


class InvalidRequest(SandboxServerError):
    """The caller's arguments are wrong; nothing was run."""

    code = "invalid_request"


class PolicyDenied(SandboxServerError):
    """The policy does not grant this; nothing was run. `reason` is a code for programs: `web.no_rule` ..."""

    code = "policy_denied"

    def __init__(self, message: str, *, rule: str, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.reason = reason


class LimitExceeded(SandboxServerError):
    """The request asks for more than a limit allows; nothing was run."""

    code = "limit_exceeded"


class NotFound(SandboxServerError):
    """There is no such thing, or it is not the caller's. The two are not told apart."""

    code = "not_found"


class Busy(SandboxServerError):
    """No sandbox became free in time; nothing was run. `retry_after` is in seconds."""

    code = "busy"
    retry_safe = True

    def __init__(self, message: str, *, retry_after: float, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class QuotaExceeded(Busy):
    """The caller has used up what the policy grants it for a time; nothing was run."""

    code = "quota_exceeded"

    def __init__(self, message: str, *, rule: str, retry_after: float, hint: str = "") -> None:
        super().__init__(message, retry_after=retry_after, hint=hint)
        self.rule = rule


class EngineUnavailable(SandboxServerError):
    """The engine does not answer or refused to make a sandbox; nothing was run."""

    code = "engine_unavailable"
    retry_safe = True


class AuditUnavailable(SandboxServerError):
    """The decision log can't be written, and what is not recorded is not done; nothing was run."""

    code = "audit_unavailable"
    retry_safe = True


class DatabaseUnavailable(SandboxServerError):
    """A database does not answer or refuses the server's login; nothing was run."""

    code = "database_unavailable"
    retry_safe = True


class ChangeUndecided(SandboxServerError):
    """The connection went while a change was committed. It may be there."""

    code = "change_undecided"


class PackagesFailed(SandboxServerError):
    """A session was to be made with packages that can't be installed; nothing else was run."""

    code = "packages_failed"


class SandboxLost(SandboxServerError):
    """The sandbox went away under a run. The code may have run, wholly or in part."""

    code = "sandbox_lost"


class UpstreamFailed(SandboxServerError):
    """A remote server answered too late or in a way that can't be taken. What it was asked may have happened.

    `reason` is a code: `web.timeout`, `web.slow`, `web.protocol` ...
    """

    code = "upstream_failed"

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class UpstreamUnreachable(UpstreamFailed):
    """There was no connection to send anything on."""

    retry_safe = True
