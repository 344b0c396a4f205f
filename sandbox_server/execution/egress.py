"""What execution asks of whoever lets sandboxes out: the rules, names and sockets are all on their side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from anyio.abc import ByteStream


@dataclass(frozen=True, slots=True)
class EgressAccess:
    """Which profile of the policy a run gets, and on whose behalf (`who`: see `Caller`)."""

    profile: str
    principal: str
    who: object = field(default=None, compare=False, repr=False)


class Outlet(Protocol):
    """The way out of one sandbox: what it may use in all is counted here."""

    @property
    def tunnels(self) -> int:
        """The most that may be open at once."""
        ...

    @property
    def trust(self) -> bytes:
        """Certificates in PEM that its programs should trust, all of them; empty: those of the image."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What its programs find in their environment besides: where the package indexes are."""
        ...

    @property
    def cached(self) -> int:
        """How many files of the host's own store its programs were given, instead of a server's, so far."""
        ...

    async def serve(self, tunnel: ByteStream) -> None:
        """Serve one connection of a program to its end. Cancelled when the run or the connection is over.
        What comes is hostile. Sending waits for the program; what is not received holds it back."""
        ...


class Egress(Protocol):
    """Lets sandboxes out."""

    def outlet(self, access: EgressAccess) -> Outlet:
        """For one sandbox. Raises ConfigError if there is no such profile."""
        ...
