"""The proxy that everything going out of a sandbox passes: judged, resolved, dialled, counted, reported."""

from sandbox_server.access.egress.authority import Authority
from sandbox_server.access.egress.dial import Dialler
from sandbox_server.access.egress.gateway import Gateway
from sandbox_server.access.egress.models import Connect, ConnectionRecord, Judge, Refused

__all__ = ["Authority", "Connect", "ConnectionRecord", "Dialler", "Gateway", "Judge", "Refused"]
