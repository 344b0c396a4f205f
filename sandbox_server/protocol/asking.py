"""The human's word on a call, through the client: elicitation in both eras of the protocol.

Nobody who answers, a client that can't ask, another answer than a plain yes: all are a no. A yes is for one
call as it stands, and for once.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import anyio
import mcp_types as types
import structlog
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from sandbox_server.enforcement.gate import Unanswered
from sandbox_server.execution.api import Caller
from sandbox_server.policy.decision import Decision
from sandbox_server.protocol.text import clip, visible
from sandbox_server.protocol.tools import Context

ASK_SECONDS: Final = 120.0
"""How long a human may take."""
_FIELD: Final = "approve"
_KEY: Final = "approval"
_MOST: Final = 1024
_LONGEST: Final = 2000
_SHORTEST: Final = 200
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {_FIELD: {"type": "boolean", "title": "Allow this call, once", "default": False}},
    "required": [_FIELD],
}

log = structlog.get_logger(__name__)


class Question(Unanswered):
    """`result` asks the client, which calls again with the answer."""

    def __init__(self, result: types.InputRequiredResult) -> None:
        super().__init__("the caller's human is asked")
        self.result = result


class Asking:
    """Questions under way. `boundary` seals what a client carries from one call to the next."""

    def __init__(self, *, seconds: float = ASK_SECONDS) -> None:
        self._seconds = seconds
        self._open: OrderedDict[str, tuple[str, float]] = OrderedDict()
        # Bound to the method, the arguments and a time by the SDK; to the caller and to once by us.
        security = RequestStateSecurity.ephemeral(ttl=seconds)
        self.boundary = RequestStateBoundary(security, default_audience="sandbox-server")

    async def confirm(
        self,
        context: Context,
        params: types.InputResponseRequestParams,
        caller: Caller,
        asked: Mapping[str, Any],
        decision: Decision,
    ) -> bool:
        """Whether the human says yes. Raises Question."""
        capabilities = context.session.client_capabilities
        if capabilities is None or capabilities.elicitation is None:
            return False
        message = _question(asked, decision)
        if context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
            return await self._ask_now(context, message)
        if params.request_state is not None:
            return self._answered(params, caller)
        raise Question(self._asked(message, caller))

    async def _ask_now(self, context: Context, message: str) -> bool:
        with anyio.move_on_after(self._seconds):
            try:
                answer = await context.session.elicit_form(message, _SCHEMA, context.request_id)
            except Exception as error:
                log.info("ask_failed", error=type(error).__name__)
                return False
            return _is_yes(answer)
        return False

    def _asked(self, message: str, caller: Caller) -> types.InputRequiredResult:
        nonce = secrets.token_hex(16)
        self._open[nonce] = (caller.principal, anyio.current_time() + self._seconds)
        while len(self._open) > _MOST:
            self._open.popitem(last=False)
        form = types.ElicitRequestFormParams(message=message, requested_schema=_SCHEMA)
        return types.InputRequiredResult(
            input_requests={_KEY: types.ElicitRequest(params=form)}, request_state=nonce
        )

    def _answered(self, params: types.InputResponseRequestParams, caller: Caller) -> bool:
        principal, until = self._open.pop(params.request_state or "", ("", 0.0))
        answer = (params.input_responses or {}).get(_KEY)
        mine = principal == caller.principal and anyio.current_time() < until
        return mine and isinstance(answer, types.ElicitResult) and _is_yes(answer)


def _is_yes(answer: types.ElicitResult) -> bool:
    return answer.action == "accept" and (answer.content or {}).get(_FIELD) is True


def _question(asked: Mapping[str, Any], decision: Decision) -> str:
    """What a human needs to know: what was judged, and the arguments, which may be long and hostile."""
    known = decision.canonical
    told = {**known, **{key: value for key, value in asked.items() if key not in known}}
    each = max(_LONGEST // max(1, len(told)), _SHORTEST)
    lines = [f"Allow this call? The policy asks before it ({visible(decision.rule)})."]
    lines += [f"{visible(key)}: {_shown(str(value), each)}" for key, value in told.items()]
    return clip("\n".join(lines), 2 * _LONGEST)


def _shown(value: str, most: int) -> str:
    """Indented, so that no line of it looks like ours; what is left out is told, and not at the end."""
    text = visible(value)
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n[... of {len(text):,} characters, {most} are shown ...]\n{text[-half:]}"
    return text.replace("\n", "\n    ")
