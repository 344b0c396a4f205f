"""Sessions that a caller has a handle of, for the tests of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sandbox_server.errors import (
    SandboxServerError,
)
from sandbox_server.execution.api import Caller
from sandbox_server.execution.manager import Manager
from sandbox_server.execution.models import (
    RunResult,
    SessionRequest,
    SessionView,
)
from tests.execution.support import ignore, run

ALICE, BOB = Caller("alice"), Caller("bob")


async def create(manager: Manager, caller: Caller = ALICE, **wanted: Any) -> SessionView:
    return await manager.sessions.create(SessionRequest(**wanted), caller=caller, on_event=ignore)


def handle_of(view: SessionView) -> str:
    assert view.info.id is not None
    return view.info.id


async def cell(manager: Manager, view: SessionView, code: str, **changes: Any) -> RunResult:
    return await run(manager, code, principal="alice", session=handle_of(view), **changes)


async def refusal(call: Callable[[], Any]) -> SandboxServerError:
    with pytest.raises(SandboxServerError) as caught:
        await call()
    return caught.value
