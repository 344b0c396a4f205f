"""`notifications/tools/list_changed`: a client whose list of tools a new policy has changed is told so.

A connection of the handshake era is told once it has listed tools; a client of 2026-07-28 while it listens
(`subscriptions/listen`). Nobody is told of what is another's: each list is compared with what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import mcp_types as types
import structlog
from mcp.server.subscriptions import ListenHandler, ServerEvent, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from sandbox_server.execution.api import Caller
from sandbox_server.protocol.connections import sdk_connection
from sandbox_server.protocol.tools import Context

MOST_STREAMS = 1000
MOST_OF_EACH = 64
"""Streams of one principal."""
SECONDS = 5.0
"""For a connection to take the notification; who does not read gets none."""

List = Callable[[Caller], list[types.Tool]]
Anew = Callable[[Caller], Caller]

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Watch:
    """`tools` as the caller was shown them, or told that they have changed."""

    caller: Caller
    tools: list[types.Tool]
    tell: Callable[[], Awaitable[None]]


class ListChanges:
    """`listed` makes the list of a caller, `anew` the caller as the policy that holds now has it."""

    def __init__(self, listed: List, anew: Anew) -> None:
        self._listed = listed
        self._anew = anew
        self._watches: dict[object, _Watch] = {}
        self._streams: dict[ListenHandler, str] = {}
        self._changed = anyio.Event()

    def changed(self) -> None:
        """There is another policy. Returns at once; `telling` does the rest."""
        self._changed.set()

    def saw(self, context: Context, caller: Caller) -> None:
        """The caller was shown its list on this connection."""
        if context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            return
        connection = sdk_connection(context)
        if connection not in self._watches:
            connection.exit_stack.callback(self._watches.pop, connection, None)
        tell = connection.send_tool_list_changed
        self._watches[connection] = _Watch(caller, self._listed(caller), tell)

    async def listen(
        self, context: Context, params: types.SubscriptionsListenRequestParams, caller: Caller
    ) -> types.SubscriptionsListenResult:
        """One stream, to its end. Of all that may be asked for, tools are what there is."""
        each = Counter(self._streams.values())[caller.principal]
        if len(self._streams) >= MOST_STREAMS or each >= MOST_OF_EACH:
            raise MCPError(code=types.INTERNAL_ERROR, message="Too many subscriptions; close one")
        wanted = types.SubscriptionFilter(tools_list_changed=params.notifications.tools_list_changed)
        handler = ListenHandler(_OneCaller(self, caller), max_buffered_events=4)
        self._streams[handler] = caller.principal
        try:
            return await handler(context, params.model_copy(update={"notifications": wanted}))
        finally:
            del self._streams[handler]

    def close(self) -> None:
        """The server stops: end every stream with its result."""
        for handler in list(self._streams):
            handler.close()

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """While it is entered, clients are told."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell_forever)
            yield
            tasks.cancel_scope.cancel()

    async def _tell_forever(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            async with anyio.create_task_group() as tasks:
                for watch in list(self._watches.values()):
                    tasks.start_soon(self._tell, watch)

    async def _tell(self, watch: _Watch) -> None:
        """One that can't be told must not end the telling, and the server with it."""
        with anyio.move_on_after(SECONDS):
            try:
                caller = self._anew(watch.caller)
                tools = self._listed(caller)
                if tools == watch.tools:
                    return
                watch.caller, watch.tools = caller, tools
                await watch.tell()
            except Exception:
                log.exception("list_change_not_told")

    def watch(self, caller: Caller, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        key = object()

        async def tell() -> None:
            listener(ToolsListChanged())

        self._watches[key] = _Watch(caller, self._listed(caller), tell)

        def forget() -> None:
            self._watches.pop(key, None)

        return forget


class _OneCaller:
    """The SDK's `SubscriptionBus` for one stream."""

    def __init__(self, changes: ListChanges, caller: Caller) -> None:
        self._changes = changes
        self._caller = caller

    async def publish(self, event: ServerEvent) -> None:
        raise NotImplementedError("`ListChanges` tells")

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        return self._changes.watch(self._caller, listener)
