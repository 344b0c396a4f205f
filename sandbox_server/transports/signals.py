"""Stopping in good order on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc


async def run_until_signal(serve: Callable[[], Awaitable[None]]) -> signal.Signals | None:
    """Run `serve` until it returns, or cancel it on SIGINT or SIGTERM. Returns that signal, if any.

    A second signal changes nothing: what is being torn down has its own deadlines.
    """
    caught: signal.Signals | None = None

    async def watch(scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        nonlocal caught
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for received in signals:
                caught = caught or received
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch, tasks.cancel_scope)
        await serve()
        tasks.cancel_scope.cancel()
    return caught
