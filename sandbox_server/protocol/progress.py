"""A run's live output as progress notifications: coalesced, rate limited, bounded.

The run never waits for a client. Events go into a bounded buffer; a pump sends what is
there at most every `interval` seconds, and what did not fit is counted, not kept. The
final result has the whole (bounded) output, so a client that ignores progress loses nothing.
"""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import structlog

from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import Output, Queued, RunEvent, StreamName
from sandbox_server.protocol.text import visible
from sandbox_server.protocol.tools import Call

Report = Callable[[float, float | None, str | None], Awaitable[None]]
ResultT = TypeVar("ResultT")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds and characters. `heartbeat` is sent when nothing else was, so that clients
    that restart their timer on progress don't give up on a silent run. `flush` bounds the
    wait for the last notification once the run is over."""

    interval: float = 0.1
    heartbeat: float = 10.0
    flush: float = 1.0
    buffer: int = 64 * 1024
    message: int = 16 * 1024


async def with_live_output(
    call: Call, run: Callable[[OnEvent], Awaitable[ResultT]], pace: Pace | None = None
) -> ResultT:
    """`run` with its events reported to the caller, if the call carried a progress token.

    Raises what `run` raises, bare. Cancelling cancels `run`.
    """
    if (call.context.meta or {}).get("progress_token") is None:
        return await run(_ignore)
    live = LiveOutput(call.context.session.report_progress, pace or Pace())
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live.pump)
        try:
            result = await run(live.on_event)
        except Exception as error:
            # Raised below: out of a task group it would arrive wrapped in an ExceptionGroup.
            failure = error
        live.finish()
        tasks.cancel_scope.deadline = anyio.current_time() + live.pace.flush
    if failure is not None:
        raise failure
    return result


def _ignore(event: RunEvent) -> None:
    del event


class LiveOutput:
    """Collects events on one side (`on_event`, never blocks), reports them on the other (`pump`)."""

    def __init__(self, report: Report, pace: Pace) -> None:
        self.pace = pace
        self._report = report
        self._started = anyio.current_time()
        self._decoders: dict[StreamName, codecs.IncrementalDecoder] = {}
        self._text: list[str] = []
        self._size = 0
        self._dropped = 0
        self._queued: Queued | None = None
        self._last = 0.0
        self._news = anyio.Event()
        self._end = anyio.Event()

    def on_event(self, event: RunEvent) -> None:
        """Take note of `event`. Output beyond the buffer is counted and dropped."""
        match event:
            case Queued():
                self._queued = event
            case Output(stream=stream, data=data):
                self._queued = None
                self._keep(self._decode(stream, data))
        self._news.set()

    def finish(self) -> None:
        """The run is over: `pump` sends what is left and returns."""
        for decoder in self._decoders.values():
            self._keep(decoder.decode(b"", final=True))
        self._end.set()
        self._news.set()

    async def pump(self) -> None:
        """Report until finished. A failing report ends the reporting, not the run."""
        try:
            while not self._end.is_set() or self._pending():
                if not self._pending():
                    with anyio.move_on_after(self.pace.heartbeat):
                        await self._news.wait()
                message = self._take()
                if message is None and self._end.is_set():
                    return
                await self._report(self._progress(), None, message)
                with anyio.move_on_after(self.pace.interval):
                    await self._end.wait()
        except Exception:
            log.exception("progress_failed")

    def _pending(self) -> bool:
        return bool(self._text or self._dropped)

    def _decode(self, stream: StreamName, data: bytes) -> str:
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(data)

    def _keep(self, text: str) -> None:
        fits = text[: max(0, self.pace.buffer - self._size)]
        if fits:
            self._text.append(fits)
            self._size += len(fits)
        self._dropped += len(text) - len(fits)

    def _take(self) -> str | None:
        """The next message, or None if there is nothing to say."""
        self._news = anyio.Event()
        if not self._pending():
            if self._queued is None:
                return None
            queued, self._queued = self._queued, None
            what = "its turn in the session" if queued.turn else "a sandbox"
            return f"waiting for {what}, position {queued.position}"
        whole = "".join(self._text)
        message, rest = whole[: self.pace.message], whole[self.pace.message :]
        self._text = [rest] if rest else []
        self._size = len(rest)
        if not rest and self._dropped:
            message += f"\n[{self._dropped} characters are not shown live]\n"
            self._dropped = 0
        return visible(message)

    def _progress(self) -> float:
        """Seconds since the call came in; the specification wants each value above the last."""
        self._last = max(round(anyio.current_time() - self._started, 3), self._last + 0.001)
        return self._last
