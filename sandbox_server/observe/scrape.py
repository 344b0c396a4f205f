"""All metrics of a server as text, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import anyio.to_thread
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from sandbox_server.errors import Busy
from sandbox_server.observe.metrics import Metrics
from sandbox_server.observe.state import State, StateCollector

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
MOST_WAITING: Final = 4


class Scrape:
    """One at a time, in a thread: the text of some thousand series takes milliseconds to write."""

    def __init__(self, metrics: Metrics, look: Callable[[], State]) -> None:
        self._registry = metrics.registry
        self._state = StateCollector(look)
        # The registry looks at once what names a collector has.
        self._registry.register(self._state)
        self._limiter = anyio.CapacityLimiter(1)
        self._under_way = 0

    async def __call__(self) -> bytes:
        """Raises Busy if more ask than can be answered."""
        if self._under_way >= MOST_WAITING:
            raise Busy("the metrics are being read already", retry_after=1.0)
        self._under_way += 1
        try:
            self._state.refresh()
            return await anyio.to_thread.run_sync(generate_latest, self._registry, limiter=self._limiter)
        finally:
            self._under_way -= 1
