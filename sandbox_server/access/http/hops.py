"""One hop on its way, and the record of it when it ends, however it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from sandbox_server.access.http.models import HopRecord, HopVerdict, OnHop
from sandbox_server.access.http.redirects import Outgoing
from sandbox_server.access.http.wire import Meter
from sandbox_server.errors import PolicyDenied, SandboxServerError
from sandbox_server.guards.web import WebGrant

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Hop:
    """What is known of it so far."""

    sent: Outgoing
    principal: str
    number: int
    rule: str = ""
    pattern: str = ""
    status: int = 0
    meter: Meter | None = None

    def granted(self, grant: WebGrant) -> WebGrant:
        self.rule, self.pattern = grant.rule, grant.host
        return grant


@contextmanager
def told(
    hop: Hop, report: OnHop, redact: Callable[[str], str], deadline: Callable[[], float]
) -> Iterator[Hop]:
    """Reports the hop. A request that was answered was allowed, wherever its answer leads."""
    began = anyio.current_time()
    verdict: HopVerdict = "failed"
    reason = "internal_error"
    try:
        yield hop
        verdict, reason = "allowed", ""
    except PolicyDenied as denied:
        reason = denied.reason or denied.rule
        if hop.status:
            verdict = "allowed"
        else:
            verdict, hop.rule = "denied", denied.rule
        raise
    except SandboxServerError as error:
        reason = getattr(error, "reason", "") or error.code
        raise
    except anyio.get_cancelled_exc_class():
        reason = "web.timeout" if anyio.current_time() >= deadline() else "cancelled"
        raise
    finally:
        try:
            report(_record(hop, verdict, reason, anyio.current_time() - began, redact))
        except Exception:
            # It has happened; that it can't be told must not change what its caller learns of it.
            _log.exception("a web request could not be reported")


def _record(
    hop: Hop, verdict: HopVerdict, reason: str, seconds: float, redact: Callable[[str], str]
) -> HopRecord:
    url, meter = hop.sent.url, hop.meter
    return HopRecord(
        principal=hop.principal,
        number=hop.number,
        method=hop.sent.method,
        url=redact(url.origin + url.path),
        host=redact(url.host),
        port=url.port,
        rule=hop.rule,
        pattern=hop.pattern,
        verdict=verdict,
        reason=reason,
        status=hop.status,
        address=meter.address if meter else "",
        bytes_out=meter.sent if meter else 0,
        bytes_in=meter.received if meter else 0,
        seconds=seconds,
    )
