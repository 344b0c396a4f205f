"""The decision log as the server uses it: two lines for a call, and no call without the first of them.

`decision` returns when the line is written, `outcome` only hands its line over. Both are written by one
thread in batches, so the event loop never waits for a disk, and many calls at once cost one write. Outcomes
are written with the next decision, or a moment later: at once, they would compete with the answers to the
calls that they tell of.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import structlog

from sandbox_server.audit.files import LogFiles
from sandbox_server.audit.masking import AuditRules, Masking
from sandbox_server.errors import AuditUnavailable, ConfigError
from sandbox_server.observe.trace import current_trace

_MOST_WAITING: Final = 4096
_BATCH: Final = 256
_LINGER: Final = 0.05
"""Seconds that an outcome may stay unwritten."""
_HINT: Final = "the operator: see the server's log; free the disk, or set audit.on_failure: continue"


@dataclass(slots=True, eq=False)
class _Line:
    fields: Mapping[str, object]
    masking: Masking
    done: anyio.Event = field(default_factory=anyio.Event)
    error: str = ""


class DecisionLog:
    """Made by `open_log`. `rules` may be replaced while it runs, when the policy is."""

    def __init__(self, files: LogFiles, rules: AuditRules, redact: Callable[[str], str]) -> None:
        self._files = files
        self._redact = redact
        self._waiting: deque[_Line] = deque()
        self._wake = anyio.Event()
        self._hurry = anyio.Event()
        self._limiter = anyio.CapacityLimiter(1)
        self._writing = anyio.Lock(fast_acquire=True)
        self._closing = False
        self._log = structlog.stdlib.get_logger("sandbox_server.audit")
        self._masking = Masking(rules, redact)
        self._rules = rules
        self.healthy = True
        self.lost = 0
        """Lines that could not be written, ever."""

    @property
    def rules(self) -> AuditRules:
        return self._rules

    @rules.setter
    def rules(self, rules: AuditRules) -> None:
        self._rules, self._masking = rules, Masking(rules, self._redact)

    @property
    def head(self) -> str:
        """The hash of the last line written: kept elsewhere, it proves later that none was cut off."""
        return self._files.head

    @property
    def waiting(self) -> int:
        """Lines that are handed over and not written yet."""
        return len(self._waiting)

    async def decision(self, record: Mapping[str, object]) -> str:
        """Before the act: `record` is `policy.records.decision_record(...)`. The id for its outcome, or ""
        where the policy does not log it.

        Raises AuditUnavailable if the line can't be written, unless the policy says to continue.
        """
        if not self._rules.wants(record):
            return ""
        decision_id = uuid.uuid4().hex
        head = {"kind": "decision", "decision_id": decision_id, "trace_id": current_trace()}
        line = _Line({**_now(), **head, **record}, self._masking)
        try:
            await self._written(line)
        except AuditUnavailable:
            if self._rules.on_failure == "stop":
                raise
        except anyio.get_cancelled_exc_class():
            self.outcome(decision_id, "cancelled")
            raise
        return decision_id

    def told(self, record: Mapping[str, object], *, kind: str = "decision") -> str:
        """As `decision`, for those that can't wait: the line is handed over, and written before long. While
        the log can't be written nothing is taken. Raises AuditUnavailable."""
        if not self._rules.wants(record):
            return ""
        full = len(self._waiting) >= _MOST_WAITING
        if self._closing or full or not self.healthy:
            self._lose(1)
            if self._rules.on_failure == "stop":
                raise AuditUnavailable("the decision log can't be written", hint=_HINT)
            return ""
        decision_id = uuid.uuid4().hex
        head = {"kind": kind, "decision_id": decision_id, "trace_id": current_trace()}
        self._enqueue(_Line({**_now(), **head, **record}, self._masking))
        self._hurry.set()
        return decision_id

    def outcome(
        self,
        decision_id: str,
        outcome: str,
        *,
        duration: float = 0.0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """After the act, also in a cancelled scope: never waits, never raises. `duration` in seconds. A line
        that can't be written is counted, and told by the next that can."""
        if not decision_id:
            return
        fields: dict[str, object] = {
            "kind": "outcome",
            "decision_id": decision_id,
            "outcome": outcome,
            "duration": round(duration, 6),
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
        }
        if detail:
            fields["detail"] = dict(detail)
        # Each decision has one outcome, and decisions are refused at half of this.
        if self._closing or len(self._waiting) >= 2 * _MOST_WAITING:
            self._lose(1)
            return
        self._enqueue(_Line({**_now(), **fields}, self._masking))

    async def _written(self, line: _Line) -> None:
        if self._closing:
            raise AuditUnavailable("the decision log is closed", hint="the server is stopping")
        if len(self._waiting) >= _MOST_WAITING:
            raise AuditUnavailable("the decision log can't keep up", hint="retry in a moment")
        self._enqueue(line)
        self._hurry.set()
        await line.done.wait()
        if line.error:
            raise AuditUnavailable(f"the decision log can't be written: {line.error}", hint=_HINT)

    def _lose(self, count: int) -> None:
        self.lost += count
        self._files.lost += count  # the next line that is written tells of them

    def _enqueue(self, line: _Line) -> None:
        self._waiting.append(line)
        self._wake.set()
        if len(self._waiting) >= _BATCH:
            self._hurry.set()

    async def write_forever(self) -> None:
        """The writer; ends when it is cancelled."""
        while True:
            await self.drain()
            self._wake, self._hurry = anyio.Event(), anyio.Event()
            await self._wake.wait()
            with anyio.move_on_after(_LINGER):
                await self._hurry.wait()

    async def drain(self) -> None:
        """When it returns, all that was handed over before is written, whoever has written it."""
        async with self._writing:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                await self._write(batch)

    async def _write(self, batch: list[_Line]) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_append, self._files, batch, limiter=self._limiter)
        except (OSError, ConfigError) as error:
            reason = error.message if isinstance(error, ConfigError) else error.strerror
            self._failed(batch, reason or type(error).__name__)
        else:
            if not self.healthy:
                self._log.warning("the decision log is written again")
            self.healthy = True
        for line in batch:
            line.done.set()

    def _failed(self, batch: list[_Line], error: str) -> None:
        if self.healthy:
            action = "calls are refused" if self._rules.on_failure == "stop" else "calls go on, unrecorded"
            self._log.error("the decision log can't be written", reason=error, consequence=action)
        self.healthy = False
        self._lose(len(batch))
        for line in batch:
            line.error = error

    def close(self) -> None:
        """What is handed over will be written; from now on nothing more is taken."""
        self._enqueue(_Line({"kind": "closed", **_now()}, self._masking))
        self._closing = True


@asynccontextmanager
async def open_log(
    directory: Path,
    rules: AuditRules,
    *,
    redact: Callable[[str], str] = str,
    max_bytes: int = 64 * 1024**2,
    keep: int = 16,
) -> AsyncIterator[DecisionLog]:
    """The log of one server in `directory`, which no other may write.

    Raises ConfigError if it can't be written, unless the policy says to continue.
    """
    files = LogFiles(directory, stamp=_now, max_bytes=max_bytes, keep=keep)
    log = DecisionLog(files, rules, redact)
    try:
        await anyio.to_thread.run_sync(files.open)
    except OSError as error:
        if rules.on_failure == "stop":
            files.close()
            raise ConfigError(
                f"the decision log in {directory} can't be written: {error.strerror or error}",
                hint="give a directory of the server's user, or set audit.on_failure: continue",
            ) from None
        log.healthy = False
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.write_forever)
            try:
                yield log
            finally:
                log.close()
                # A server that is cancelled still writes what it was handed.
                with anyio.CancelScope(shield=True):
                    await log.drain()
                tasks.cancel_scope.cancel()
    finally:
        files.close()


def _append(files: LogFiles, batch: list[_Line]) -> None:
    files.append([_cleaned(line) for line in batch])


def _cleaned(line: _Line) -> Mapping[str, object]:
    try:
        return line.masking.clean(line.fields)
    except Exception as error:  # the redaction is not ours; one record must not hold up the others
        logging.getLogger(__name__).error("a record could not be masked: %s", type(error).__name__)
        kept = {key: line.fields.get(key) for key in ("kind", "ts", "decision_id", "decision", "outcome")}
        return {**kept, "unmaskable": type(error).__name__}


def _now() -> dict[str, object]:
    return {"ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
