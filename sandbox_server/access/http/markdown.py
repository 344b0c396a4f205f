"""HTML to markdown, in a process of its own.

Parsing what a stranger wrote takes as long as the stranger likes, and a thread can't be stopped. So the
work is a short-lived child with limits on time and memory, an empty environment and no files.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio
from anyio.abc import Process

from sandbox_server.errors import UpstreamFailed

MAX_INPUT = 2 * 1024**2
MAX_OUTPUT = 8 * 1024**2
_CHILD = Path(__file__).with_name("markdown_child.py")


class Markdown:
    """At most two conversions at once, `timeout` seconds each, and one of each principal: whoever asks for
    pages that take for ever does not hold up the others."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._limiter = anyio.CapacityLimiter(2)
        self._turns: dict[str, anyio.Lock] = {}

    async def convert(self, html: str, principal: str = "") -> str:
        """Raises UpstreamFailed for HTML that is too large, or takes too long or too much memory."""
        data = html.encode()
        if len(data) > MAX_INPUT:
            raise _failed(f"has {len(data):,} bytes; {MAX_INPUT:,} are converted")
        async with self._turn(principal), self._limiter:
            # A child that is being born can't be ended: only what follows has a time limit.
            with anyio.CancelScope(shield=True):
                child = await anyio.open_process(
                    [sys.executable, "-I", "-X", "utf8", str(_CHILD)], stderr=DEVNULL, env={}, cwd="/"
                )
            try:
                with anyio.move_on_after(self._timeout):
                    return await _converse(child, data)
            finally:
                with anyio.CancelScope(shield=True):
                    if child.returncode is None:
                        child.kill()
                    await child.aclose()
        raise _failed(f"was not converted within {self._timeout:g} s")

    @asynccontextmanager
    async def _turn(self, principal: str) -> AsyncIterator[None]:
        lock = self._turns.setdefault(principal, anyio.Lock())
        try:
            async with lock:
                yield
        finally:
            # Who lets go hands it to the next at once.
            if not lock.locked():
                self._turns.pop(principal, None)


async def _converse(child: Process, data: bytes) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    answer = bytearray()
    try:
        # It reads all before it writes anything, so this can't lock up.
        await child.stdin.send(data)
        await child.stdin.aclose()
        async for piece in child.stdout:
            answer += piece
            if len(answer) > MAX_OUTPUT:
                raise _failed("makes too much markdown")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        raise _failed("can't be converted") from None
    if await child.wait() != 0:
        raise _failed("can't be converted")
    return answer.decode(errors="replace")


def _failed(what: str) -> UpstreamFailed:
    return UpstreamFailed(f"The HTML {what}.", reason="web.markdown", hint="Ask without format.")
