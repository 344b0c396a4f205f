"""The orchestrator: acquire, run, collect, destroy. The one implementation of `Executor`."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup

from sandbox_server.engines.base import Engine
from sandbox_server.engines.profile import Profile
from sandbox_server.errors import EngineUnavailable, InvalidRequest, SandboxServerError
from sandbox_server.execution.api import Caller, OnEvent, unheard
from sandbox_server.execution.background import OnUsed, ProcessDesk
from sandbox_server.execution.caps import Caps, caps_of
from sandbox_server.execution.conductor import Conductor
from sandbox_server.execution.desk import SessionDesk
from sandbox_server.execution.egress import Egress
from sandbox_server.execution.file_desk import FileDesk
from sandbox_server.execution.file_models import FileAnswer, FileOperation
from sandbox_server.execution.grants import Grant, Rights, Sizing
from sandbox_server.execution.installs import check_packages
from sandbox_server.execution.models import Content, Page, Resource, RunEvent, RunRequest, RunResult
from sandbox_server.execution.paths import workspace_path
from sandbox_server.execution.pool import Pools
from sandbox_server.execution.quota import Underway
from sandbox_server.execution.resources import Resources
from sandbox_server.execution.runs import Clock, check_reuse, effective_limits, size_of
from sandbox_server.execution.session import Session
from sandbox_server.execution.session_rules import check_language, check_right
from sandbox_server.execution.store import Store
from sandbox_server.execution.way_out import WaysOut

_log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 30.0


class Manager:
    """Runs requests in sandboxes of an engine. An async context manager: entering starts the
    pools and never fails because the engine is down; leaving destroys every sandbox.

    `store` keeps what runs leave behind; the manager enters it. None: a temporary one. `grants` is what a
    caller gets that brings no rights of its own: nothing where a policy tells callers apart. `used` is told
    of CPU time that no result tells of."""

    def __init__(
        self,
        engine: Engine,
        grants: Mapping[str, Grant],
        sizing: Sizing,
        store: Store | None = None,
        egress: Egress | None = None,
        used: OnUsed = lambda *told: None,
    ) -> None:
        self._engine = engine
        self._sizing = sizing
        profiles = dict.fromkeys(grant.profile for grant in grants.values())
        longest = max((grant.ceiling.wall for grant in grants.values()), default=0.0)
        self._pools = Pools(engine, profiles, sizing, longest_run=longest)
        underway = Underway(sizing.runs_per_principal, others=sizing.others_per_principal, held=sizing.held)
        self._desk = SessionDesk(self._pools, Rights(dict(grants)), sizing, underway)
        self._files = FileDesk(self._desk)
        ways_out = WaysOut(egress)
        self._processes = ProcessDesk(self._desk, self._files, ways_out, used)
        self._store = store or Store(total=sizing.store, ttl=sizing.store_ttl)
        self._conductor = Conductor(self._pools, self._desk, self._store, ways_out)
        self._resources = Resources(self._store, self._desk.registry)
        self._stack = AsyncExitStack()
        self._swept = False

    # --- life

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._store)
        tasks = await self._stack.enter_async_context(self._background())
        self._pools.start(tasks)
        tasks.start_soon(self._housekeeping)
        tasks.start_soon(self._expire_forever)
        tasks.start_soon(self._measure_forever)
        return self

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[TaskGroup]:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            finally:
                self._pools.stop()
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True), anyio.move_on_after(SHUTDOWN_SECONDS):
                    await self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _leave(self) -> None:
        try:
            await self._engine.aclose()
        except SandboxServerError as error:
            _log.error("sandboxes may be left for the next start to sweep: %s", error)
        except Exception:
            _log.exception("sandboxes may be left for the next start to sweep")

    async def _housekeeping(self) -> None:
        """Sweep what earlier boots left and reap, for ever: an engine may finish a container that
        a killed server had asked for after the next server's first sweep."""
        while True:
            try:
                removed = await self._engine.sweep()
                self._swept = True
                if removed:
                    _log.warning("removed %d sandboxes that an earlier run of this server left", removed)
                reaped = await self._engine.reap(now=time.time())
                if reaped:
                    _log.error("reaped %d sandboxes that nobody owned", reaped)
            except EngineUnavailable as error:
                _log.warning("%s", error)
            except Exception:
                _log.exception("housekeeping failed")
            await anyio.sleep(self._sizing.reap_every if self._swept else 2.0)

    async def _expire_forever(self) -> None:
        """Apart from the housekeeping: an engine that hangs must not keep sessions alive."""
        while True:
            self._expire()
            await self._store.expire()
            await anyio.sleep(self._sizing.reap_every)

    async def _measure_forever(self) -> None:
        """Apart from all else: a sandbox may take its time to answer, or never do."""
        while True:
            await self._processes.measure()
            await anyio.sleep(self._sizing.reap_every)

    def _expire(self) -> None:
        self._desk.expire()
        self._pools.retire()

    def regrant(
        self,
        warm: Iterable[Profile],
        revision: str,
        rights_of: Callable[[object], Rights],
        *,
        longest_run: float,
    ) -> None:
        """The policy has changed: from now on nothing of another revision is handed out, `warm` is what is
        made ahead, and sessions end whose callers (`Caller.who`) no longer have a right to them."""
        self._pools.keep(warm, revision, longest_run=longest_run)
        self._desk.regrant(rights_of, revision)

    # --- the Executor's door

    def languages(self, caller: Caller) -> tuple[str, ...]:
        return tuple(self._desk.rights(caller).languages)

    def caps(self, caller: Caller) -> Caps:
        return caps_of(self._desk.rights(caller))

    @property
    def sessions(self) -> SessionDesk:
        return self._desk

    @property
    def processes(self) -> ProcessDesk:
        return self._processes

    async def close_connection(self, connection: str) -> None:
        for sandbox in self._desk.registry.close(connection):
            self._pools.discard(sandbox)

    def list_resources(self, *, caller: Caller) -> list[Resource]:
        return self._resources.list(caller, self._desk.rights(caller).files)

    async def read_resource(self, uri: str, page: Page, *, caller: Caller) -> Content:
        return await self._resources.read(uri, page, caller, self._desk.rights(caller).files)

    @property
    def pools(self) -> Pools:
        """To be looked at."""
        return self._pools

    async def health(self) -> dict[str, object]:
        """The state of the engine and the pools, without a secret; never waits for the engine."""
        error = self._pools.last_error
        return {
            "engine": "ok" if error is None else error.code,
            "sessions": len(self._desk.registry),
            **self._pools.counts(),
        }

    async def run(
        self, request: RunRequest, *, caller: Caller, on_event: OnEvent, session: str | None = None
    ) -> RunResult:
        clock = Clock(time.monotonic())
        grant = self._desk.grant(request.language, caller)
        if not request.code.strip():
            raise InvalidRequest("code is empty", hint="send the program to run")
        if request.reuse:
            check_reuse(request, grant, caller, session)
        if request.packages:
            check_packages(request.packages, grant, way_out=grant.egress is not None)
        limits = effective_limits(request.limits, grant)
        files = tuple(replace(file, path=workspace_path(file.path)) for file in request.files)
        request = replace(request, limits=limits, files=files)
        on_event = _quiet(on_event)
        with self._desk.underway(caller, size_of(request)):
            place = self._session(session, grant, caller)
            if place is None:
                return await self._conductor.run_once(request, grant, caller, clock, on_event)
            return await self._conductor.run_in_session(request, grant, clock, place, caller, on_event)

    async def files(
        self,
        operation: FileOperation,
        *,
        caller: Caller,
        session: str | None = None,
        on_event: OnEvent = unheard,
    ) -> FileAnswer:
        return await self._files.perform(operation, caller, session, _quiet(on_event))

    def _session(self, handle: str | None, grant: Grant, caller: Caller) -> Session | None:
        """Where to run: the session of that handle, the connection's own, or none."""
        if handle is not None:
            session = self._desk.find(handle, caller)
            rights = self._desk.rights(caller)
            check_language(grant, session, rights)
            check_right(session, rights)
            return session
        if caller.connection is None:
            return None
        return self._desk.registry.of(
            caller.principal, caller.connection, grant.profile, grant.egress, caller.who
        )


def _quiet(on_event: OnEvent) -> OnEvent:
    """A caller whose callback breaks loses its events, not the wire that they came on."""
    broken = False

    def tell(event: RunEvent) -> None:
        nonlocal broken
        if not broken:
            try:
                on_event(event)
            except Exception:
                broken = True
                _log.exception("a listener to a run failed")

    return tell
