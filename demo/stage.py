"""What the steps of the demo share: calls of tools, and claims about what comes back."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client
from mcp_types import ImageContent

from demo.sales import Sales


class Broken(Exception):
    """A claim of the demo does not hold."""


def claim(holds: bool, what: str, observed: object) -> None:
    """Raises Broken unless `what` is true."""
    if not holds:
        raise Broken(f"{what}; observed: {observed}")


@dataclass(frozen=True)
class Answer:
    """One call: its structured result, its images, the seconds it took seen from here."""

    result: dict[str, Any]
    images: list[bytes]
    seconds: float
    refused: bool


@dataclass
class Stage:
    """What the steps share. `port` is the server's."""

    client: Client
    sales: Sales
    output: Path
    port: int
    session: str | None = None

    async def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool. Raises Broken if the server refuses."""
        answer = await self._call(tool, arguments)
        claim(not answer.refused, f"{tool} is answered", answer.result)
        return answer

    async def refused(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that the policy must deny. Raises Broken if it does not."""
        answer = await self._call(tool, arguments)
        denied = answer.refused and answer.result.get("code") == "policy_denied"
        claim(denied, f"the policy denies {tool} {arguments}", answer.result)
        return answer.result

    async def run(self, code: str, **arguments: Any) -> Answer:
        """Call `code_execution`. Raises Broken if the server refuses."""
        return await self.call("code_execution", code=code, **arguments)

    async def _call(self, tool: str, arguments: dict[str, Any]) -> Answer:
        begin = time.perf_counter()
        answer = await self.client.call_tool(tool, arguments)
        seconds = time.perf_counter() - begin
        images = [base64.b64decode(each.data) for each in answer.content if isinstance(each, ImageContent)]
        return Answer(answer.structured_content or {}, images, seconds, bool(answer.is_error))


@dataclass(frozen=True)
class Step:
    title: str
    act: Callable[[Stage], Awaitable[str]]
    """Returns what was observed. Raises Broken."""
