"""Between protocol and policy: whose call it is, what that caller sees, whether the call may go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import mcp_types as types
from mcp.server.context import ServerMiddleware

from sandbox_server.enforcement import gate as enforcement
from sandbox_server.execution.api import Caller
from sandbox_server.policy.decision import Principal, Request
from sandbox_server.protocol.asking import Asking
from sandbox_server.protocol.connections import connection_of
from sandbox_server.protocol.tools import Asked, Context, Told


class Gate(Protocol):
    """What the registry and the resources need."""

    def caller(self, context: Context, *, connected: bool = True) -> Caller:
        """Not `connected`: for looking only, which does not begin anything that has to be closed."""

    def tools(self, caller: Caller) -> Sequence[str] | None:
        """Names of those that the caller is shown; None: all."""

    def anew(self, caller: Caller) -> Caller:
        """The same one with the rights that it has now."""

    def admitted(
        self,
        context: Context,
        params: types.InputResponseRequestParams,
        caller: Caller,
        kind: str,
        asked: Asked,
        told: Told,
    ) -> AbstractAsyncContextManager[None]:
        """Entered if the call may be made. `kind` is a tool's name or "resource".

        Raises PolicyDenied and other errors of ours, and Question."""
        ...


class OpenGate:
    """Lets everything through: for tests of the protocol alone."""

    middleware: tuple[ServerMiddleware[object], ...] = ()

    def caller(self, context: Context, *, connected: bool = True) -> Caller:
        return Caller(connection=connection_of(context) if connected else None)

    def tools(self, caller: Caller) -> Sequence[str] | None:
        return None

    def anew(self, caller: Caller) -> Caller:
        return caller

    @asynccontextmanager
    async def admitted(
        self,
        context: Context,
        params: types.InputResponseRequestParams,
        caller: Caller,
        kind: str,
        asked: Asked,
        told: Told,
    ) -> AsyncIterator[None]:
        yield


class PolicyGate:
    """By the policy. `who` says whose requests come with a context."""

    def __init__(
        self,
        gate: enforcement.Gate,
        who: Callable[[Context], Principal],
        asking: Asking | None = None,
    ) -> None:
        self._gate = gate
        self._who = who
        self._asking = asking or Asking()
        self.middleware = (self._asking.boundary,)

    def caller(self, context: Context, *, connected: bool = True) -> Caller:
        return self._gate.current.caller(self._who(context), connection_of(context) if connected else None)

    def tools(self, caller: Caller) -> Sequence[str] | None:
        return self._gate.current.tools(caller)

    def anew(self, caller: Caller) -> Caller:
        return replace(caller, rights=self._gate.current.rights(caller.who))

    @asynccontextmanager
    async def admitted(
        self,
        context: Context,
        params: types.InputResponseRequestParams,
        caller: Caller,
        kind: str,
        asked: Asked,
        told: Told,
    ) -> AsyncIterator[None]:
        confirm = partial(self._asking.confirm, context, params, caller, asked.args)
        request = Request(kind, asked.args)
        async with self._gate.admit(caller, request, confirm, columns=asked.columns) as entered:
            try:
                yield
            finally:
                entered.outcome, entered.cpu = told.outcome, told.cpu
                entered.bytes_in, entered.bytes_out = told.bytes_in, told.bytes_out
                entered.rows, entered.ran = told.rows, told.ran
