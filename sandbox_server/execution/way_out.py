"""The way out of one sandbox: its tunnels, what its programs trust, and what it has used in all its runs."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import ValidationError

from sandbox_server.errors import SandboxLost
from sandbox_server.execution.egress import Egress, EgressAccess, Outlet
from sandbox_server.execution.jobs import PutReport, trust_error
from sandbox_server.execution.transfers import Transfer
from sandbox_server.execution.tunnels import Send, Tunnels

TRUST_SECONDS = 30.0


class _Sandbox(Protocol):
    async def transfer(self, transfer: Transfer, seconds: float) -> dict[str, Any] | None: ...


class WayOut(Tunnels):
    """As its sandbox has it; `open` before a run that is granted one, `shut` after every run."""

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self._outlets: dict[EgressAccess, Outlet] = {}
        self._trusted = b""

    def outlet(self, egress: Egress, access: EgressAccess) -> Outlet:
        """The same one in every run: what it has used is counted for the sandbox's whole life."""
        if access not in self._outlets:
            self._outlets[access] = egress.outlet(access)
        return self._outlets[access]

    async def open(self, outlet: Outlet, sandbox: _Sandbox) -> int:
        """Returns how many tunnels there may be at once. Raises LimitExceeded if there is no room for the
        certificates, SandboxLost."""
        if outlet.trust != self._trusted:
            await self._trust(outlet.trust, sandbox)
        return self.begin(outlet)

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
