"""One session: a sandbox that keeps its state between calls, and what is true of that state."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from sandbox_server.engines.profile import Profile
from sandbox_server.execution.api import ANONYMOUS
from sandbox_server.execution.jobs import CloseReport
from sandbox_server.execution.models import Artifact, SessionInfo, SessionState
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.turns import Turns

MOST_LISTED = 256


@dataclass(eq=False)
class Session:
    """One stateful sandbox of one principal. `lock` puts its calls in order.

    A connection's own session outlives its sandbox: the next call begins anew and says so. An
    `explicit` one, which a caller made and has the handle (`id`) of, ends with its sandbox.
    `egress` is the way out that all in it have, by the policy's name; None: none.
    `idle` and `ttl` in seconds; `deadline` by the monotonic clock. `loss` is what the next result
    must say, because no result has said it yet; `interrupted` that nobody got the last one.
    `opening` while a sandbox is on its way, `closed` once nobody may use it any more.
    """

    profile: Profile
    principal: str = ANONYMOUS
    egress: str | None = None
    idle: float = 900.0
    ttl: float = 4 * 3600.0
    explicit: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    lock: Turns = field(default_factory=Turns)
    sandbox: Sandbox | None = None
    created: float = 0.0
    used: float = 0.0
    deadline: float = 0.0
    cells: dict[str, int] = field(default_factory=dict)
    """How many each interpreter, by its driver's name, has run since it was last known to end."""
    interrupted: bool = False
    opening: bool = False
    closed: bool = False
    loss: str = ""
    who: object = None
    """Its caller, as the layers above know it: see `Caller.who`."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def note_files(self, artifacts: Iterable[Artifact]) -> None:
        """What a run has made can be listed as long as the sandbox lives; the last made, if it is many."""
        for artifact in artifacts:
            if artifact.uri:
                self.artifacts.pop(artifact.uri, None)
                self.artifacts[artifact.uri] = dataclasses.replace(artifact, image=None)
        for uri in list(self.artifacts)[:-MOST_LISTED]:
            del self.artifacts[uri]

    def adopt(self, sandbox: Sandbox) -> None:
        """Begin anew in `sandbox`."""
        self.sandbox = sandbox
        self.artifacts.clear()
        self.created = self.used = time.monotonic()
        self.deadline = self.created + self.ttl
        self.cells = {}
        self.interrupted = False

    def replace(self, sandbox: Sandbox) -> None:
        """Go on in `sandbox`, in the time that the session has left."""
        created, deadline = self.created, self.deadline
        self.adopt(sandbox)
        self.created, self.deadline = created, deadline

    def restart(self) -> None:
        """The interpreter was ended because somebody asked for it, who has been told."""
        self.cells = {}
        self.interrupted = False
        self.used = time.monotonic()

    def lose(self, note: str) -> Sandbox | None:
        """Give up the sandbox, if there is one; the next result says why."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            self.loss = f"{note}; variables and files of earlier calls are gone"
        return sandbox

    def end_if_over(self) -> Sandbox | None:
        """Give up a sandbox that has died or whose time is up; returns it for destruction."""
        if self.sandbox and not self.sandbox.alive:
            return self.lose("the sandbox had died")
        if self.sandbox and self.expires_in() <= 0:
            return self.lose("the session had expired")
        return None

    def expires_in(self) -> float:
        """Seconds until it ends if nobody uses it."""
        return min(self.used + self.idle, self.deadline) - time.monotonic()

    def idle_for(self) -> float:
        """Seconds since the last call."""
        return time.monotonic() - self.used

    def tell(self) -> tuple[SessionState, str]:
        """What is true of the files, for a result that is not a run's."""
        loss, self.loss = self.loss, ""
        return ("lost", loss) if loss else ("kept", "")

    def conclude(
        self, report: CloseReport | None, driver: str | None, *, stopped: bool = False
    ) -> tuple[SessionState, str]:
        """What is true after a run, for its result. `driver`: whose interpreter was to run it, if one.
        `stopped`: we have ended it."""
        loss, self.loss = self.loss, ""
        if report is None or self.sandbox is None:
            return "lost", "the sandbox ended; variables and files are gone"
        ran = driver if report.interpreter else None
        note = self._count_cell(report, ran) if ran else ""
        note = "; ".join(filter(None, (note, self._note_ended(report))))
        if loss:
            return "lost", loss
        if note:
            return "reset", note
        return "kept", "the cell was interrupted; variables are as it left them" if stopped and ran else ""

    def _count_cell(self, report: CloseReport, driver: str) -> str:
        """What became of the interpreter since the last result, if it did not simply go on."""
        # Whether a cancelled call took it along, only the next one finds out.
        restarted = report.fresh and (self.cells.get(driver, 0) > 0 or self.interrupted)
        cause = "a call was cancelled" if self.interrupted else "the interpreter had ended"
        self.interrupted = False
        self.cells[driver] = self.cells.get(driver, 0) + 1
        if report.interpreter == "gone":
            self.cells[driver] = 0
            return "the interpreter ended; variables are gone, files are kept"
        return f"{cause} since the last result; variables were gone, files are kept" if restarted else ""

    def _note_ended(self, report: CloseReport) -> str:
        """A run can be the end of what other languages' interpreters keep."""
        ended = [driver for driver in report.ended if self.cells.pop(driver, 0)]
        what = " and the ".join(f"{driver} interpreter" for driver in ended)
        return f"the {what} has ended; its variables are gone, files are kept" if ended else ""

    def info(self, state: SessionState, note: str) -> SessionInfo:
        expires_in = max(0.0, self.expires_in()) if self.sandbox else None
        return SessionInfo(self.id, state, expires_in, note)
