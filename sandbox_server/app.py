"""The composition root: everything that lives as long as the process is made here, in one stack,
and goes in the opposite order.

settings -> policy -> instance -> what enforces it -> engine -> manager -> protocol server -> transport
"""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import structlog

from sandbox_server import __version__
from sandbox_server.access.egress.indexes import Indexes
from sandbox_server.config import Settings
from sandbox_server.engines.base import ImageStore, Owner
from sandbox_server.engines.docker.engine import DockerEngine
from sandbox_server.engines.docker.images import open_images
from sandbox_server.errors import EngineUnavailable, ImageMissing
from sandbox_server.execution.background import OnUsed
from sandbox_server.execution.blobs import clear
from sandbox_server.execution.egress import Egress
from sandbox_server.execution.grants import Grant
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.store import Store
from sandbox_server.images.recipes import tag_of
from sandbox_server.instance import ownerless, take_instance
from sandbox_server.policy.loader import load_policy
from sandbox_server.policy.models import Policy

T = TypeVar("T")
Narrow = Callable[[Policy], Policy]

CHECK_SECONDS = 3.0
"""How long an engine may take to say what its host can do before the server starts without its answer."""
ORPHANS_EVERY = 60.0
"""Seconds between looks for what servers that will not come back left behind."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stack:
    """What a command works with."""

    policy: Policy
    engine: DockerEngine
    manager: Manager


@asynccontextmanager
async def open_stack(settings: Settings, *, narrow: Narrow | None = None) -> AsyncIterator[Stack]:
    """Everything below the protocol, for the operator's own commands: who runs them has what a caller without
    a token has. `narrow` may cut the policy down to what a command needs.

    Works while the engine is down. Raises ConfigError. On the way out no container is left,
    unless the engine does not answer.
    """
    policy = load(settings)
    policy = narrow(policy) if narrow else policy
    async with AsyncExitStack() as stack:
        lease = stack.enter_context(take_instance(settings.state_dir, settings.instance))
        engine = _engine(settings, lease.id)
        manager = await _enter_manager(stack, settings, engine, lease.slot, policy, policy.grants)
        yield Stack(policy, engine, manager)


async def _enter_manager(
    stack: AsyncExitStack,
    settings: Settings,
    engine: DockerEngine,
    slot: str,
    policy: Policy,
    grants: Mapping[str, Grant],
    egress: Egress | None = None,
    used: OnUsed = lambda *told: None,
) -> Manager:
    await _check_host(engine, policy)
    store = Store(_store_of(settings, slot), total=policy.sizing.store, ttl=policy.sizing.store_ttl)
    # Entering the manager makes it the engine's owner: it closes the engine on its way out.
    manager = await stack.enter_async_context(Manager(engine, grants, policy.sizing, store, egress, used))
    background = await stack.enter_async_context(anyio.create_task_group())
    stack.callback(background.cancel_scope.cancel)
    background.start_soon(_sweep_orphans, settings)
    return manager


def load(settings: Settings) -> Policy:
    """The policy as it is written now. Raises ConfigError."""
    aliases = Indexes(settings.state_dir / "egress").resolve
    return load_policy(settings.policy, host_memory=_host_memory(), aliases=aliases)


async def _check_host(engine: DockerEngine, policy: Policy) -> None:
    """Refuse to start on a host that can't apply every limit: a limit must not be found missing by
    whoever relies on it. An engine that is down and an image that is not built yet are told in
    results instead, because they mend themselves. Raises ConfigError.
    """
    with anyio.move_on_after(CHECK_SECONDS):
        try:
            await engine.probe()
            for profile in {grant.profile: None for grant in policy.every_grant}:
                try:
                    await engine.check(profile)
                except ImageMissing as error:
                    log.warning("image_missing", reason=error.message, hint=error.hint)
        except EngineUnavailable as error:
            log.warning("engine_unavailable", reason=error.message, hint=error.hint)


async def serve(settings: Settings) -> None:
    """Serve until the client leaves (stdio) or the caller cancels."""
    # Here, because the protocol's library takes half a second to import and other commands do without.
    from sandbox_server.enforcement.reloading import fingerprint
    from sandbox_server.protocol.guarded import guarded_server
    from sandbox_server.serving import Ruling, open_enforced
    from sandbox_server.transports.http import HttpSettings, serve_http, transport_security
    from sandbox_server.transports.listening import base_url, listen
    from sandbox_server.transports.metrics import serve_metrics
    from sandbox_server.transports.stdio import serve_stdio

    seen = fingerprint(settings.policy)  # before it is read: what changes from now on is noticed
    policy = load(settings)
    async with AsyncExitStack() as stack:
        lease = stack.enter_context(take_instance(settings.state_dir, settings.instance))
        scraped = settings.metrics and stack.enter_context(
            listen(settings.metrics.host, settings.metrics.port)
        )
        enforced = await stack.enter_async_context(open_enforced(settings, policy, lease.slot))
        engine, egress = _engine(settings, lease.id), enforced.outside.gateway
        # Whoever comes without rights gets none: they come with each call, from the policy in force.
        used = enforced.gate.used
        manager = await _enter_manager(stack, settings, engine, lease.slot, policy, {}, egress, used)
        check = partial(_check_host, engine)
        ruling = Ruling(settings, enforced, manager, partial(load, settings), check, seen)
        ruling.begin()
        background = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(background.cancel_scope.cancel)
        background.start_soon(ruling.reloading.watch)
        background.start_soon(ruling.reloading.listen)
        server = guarded_server(
            manager,
            enforced.gate,
            lambda context: enforced.local,
            version=__version__,
            web=enforced.outside.web,
            databases=enforced.outside.databases,
        )
        log.info(
            "serving",
            version=__version__,
            transport=settings.transport,
            policy=policy.source,
            revision=policy.revision,
            languages=list(enforced.gate.current.rights(enforced.local).languages),
        )
        http = HttpSettings(host=settings.endpoint.host, port=settings.endpoint.port)
        if scraped:
            url = base_url(scraped)
            enforced.ports.add(int(url.rpartition(":")[2]))
            background.start_soon(serve_metrics, ruling.metrics, transport_security(http), scraped)
            log.info("metrics", url=f"{url}/metrics")
        if settings.transport == "stdio":
            await serve_stdio(server, manager)
        else:

            def ready(url: str) -> None:
                enforced.ports.add(int(url.rpartition(":")[2]))
                log.info("listening", url=f"{url}/mcp")

            await serve_http(server, http, on_ready=ready, health=ruling.health, metrics=ruling.metrics)
    log.info("stopped")


async def until_signalled(work: Callable[[], Awaitable[T]]) -> tuple[T | None, signal.Signals | None]:
    """The result of `work`, or the signal that cancelled it. A second signal ends the process at once."""
    result: T | None = None
    failure: BaseException | None = None
    received: signal.Signals | None = None

    async def listen(scope: anyio.CancelScope) -> None:
        nonlocal received
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            started.set()
            async for number in signals:
                if received is not None:
                    # The next start sweeps what this leaves behind.
                    os._exit(128 + number)
                received = number
                log.info("stopping", signal=number.name)
                scope.cancel()

    started = anyio.Event()
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(listen, scope)
            await started.wait()
            try:
                result = await work()
            except Exception as error:
                # Raised outside the group, which would wrap it into a group of its own.
                failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result, received


def open_image_store(settings: Settings) -> AbstractAsyncContextManager[ImageStore]:
    """Where the engine keeps its images. Entering it raises ConfigError or EngineUnavailable."""
    return open_images(settings.docker_host)


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _store_of(settings: Settings, slot: str) -> Path:
    return settings.state_dir / f"store-{slot}"


def _engine(settings: Settings, instance: str) -> DockerEngine:
    return DockerEngine(
        Owner(instance=instance, boot_id=uuid.uuid4().hex),
        tag_of,
        base_url=settings.docker_host,
        insecure_allow_missing=settings.insecure_allow_missing,
    )


async def _sweep_orphans(settings: Settings) -> None:
    """Our own slot is swept by the manager. A second server that died and was not started again
    held another one, which nobody else looks at."""
    while True:
        for lease in ownerless(settings.state_dir):
            engine = _engine(settings, lease.id)
            with contextlib.suppress(OSError):
                await anyio.to_thread.run_sync(clear, _store_of(settings, lease.slot))
            try:
                if removed := await engine.sweep():
                    log.info("orphans_removed", slot=lease.slot, containers=removed)
                await engine.aclose()
            except EngineUnavailable:
                break
        await anyio.sleep(ORPHANS_EVERY)
