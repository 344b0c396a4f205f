"""The way out of one sandbox: its tunnels, what its programs trust, and what it has used in all its life."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import ValidationError

from sandbox_server.engines.profile import Profile
from sandbox_server.errors import ConfigError, PolicyDenied, SandboxLost
from sandbox_server.execution.egress import Egress, EgressAccess, Outlet
from sandbox_server.execution.jobs import PutReport, trust_error
from sandbox_server.execution.transfers import Transfer
from sandbox_server.execution.tunnels import Send, Tunnels

TRUST_SECONDS = 30.0


class _Sandbox(Protocol):
    @property
    def profile(self) -> Profile: ...

    @property
    def way_out(self) -> WayOut: ...

    async def transfer(self, transfer: Transfer, seconds: float) -> dict[str, Any] | None: ...


class WayOut(Tunnels):
    """As its sandbox has it: `open` before a run or a background process that is granted one, `rest` after
    every run, `shut` when no process is left."""

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self._own: tuple[EgressAccess, Outlet] | None = None
        self._trusted = b""
        self._lasting = False

    def outlet(self, egress: Egress, access: EgressAccess) -> Outlet:
        """Always the same one: what it has used is counted for the sandbox's whole life. Raises PolicyDenied
        for another access than the first, for programs of one sandbox can use each other's connections;
        unless the policy has changed (`forget`)."""
        if self._own is None:
            self._own = access, egress.outlet(access)
        if self._own[0] != access:
            raise PolicyDenied(
                f"this sandbox has the way out '{self._own[0].profile}', and can't have "
                f"'{access.profile}' besides",
                rule="code.egress",
                hint="nothing was run; use another session",
            )
        return self._own[1]

    def forget(self) -> None:
        """The policy gives its programs another way out from now on, or none."""
        self._own = None

    async def open(self, outlet: Outlet, sandbox: _Sandbox, *, lasting: bool = False) -> int:
        """For a run, or until `shut` for what lives on beside runs. Returns how many tunnels there may be at
        once. Raises LimitExceeded if there is no room for the certificates, SandboxLost."""
        if outlet.trust != self._trusted:
            await self._trust(outlet.trust, sandbox)
        self._lasting = self._lasting or lasting
        return self.begin(outlet)

    def rest(self) -> None:
        """A run is over. If nothing lives on that has a way out, none of its connections does."""
        if not self._lasting:
            self.shut()

    def shut(self) -> None:
        self._lasting = False
        super().shut()

    async def _trust(self, pem: bytes, sandbox: _Sandbox) -> None:
        request = {"op": "trust", "pem": pem.decode("ascii")}
        try:
            report = await sandbox.transfer(Transfer(request), TRUST_SECONDS)
            written = PutReport.model_validate(report or {})
        except (SandboxLost, ValidationError):
            raise SandboxLost("the sandbox was lost before the run", hint="nothing was run") from None
        if not written.ok:
            raise trust_error(written)
        self._trusted = pem


class WaysOut:
    """Whoever lets sandboxes out, if anybody does, as the policy's names ask for it."""

    def __init__(self, egress: Egress | None) -> None:
        self._egress = egress

    def of(self, sandbox: _Sandbox, profile: str | None, principal: str, who: object = None) -> Outlet | None:
        """That of a sandbox which is granted the egress profile of this name, if any. Raises ConfigError if
        it should have one that there is not, and for a sandbox that can't open a network socket: the loader
        refuses roles that go together so, but not what several rules for one token may add up to."""
        if profile is None:
            return None
        if sandbox.profile.seccomp == "strict":
            raise ConfigError(
                "the policy grants egress together with seccomp: strict, which allows no network socket",
                hint="nothing was run; the operator must give no principal both",
            )
        if self._egress is None:
            raise ConfigError(
                f"the policy grants the egress profile '{profile}', but this server lets nothing out",
                hint="nothing was run; the operator must set up egress or take it out of the policy",
            )
        return sandbox.way_out.outlet(self._egress, EgressAccess(profile, principal, who))
