"""HTML to markdown, in a process of its own.

Parsing what a stranger wrote takes as long as the stranger likes, and a thread can't be stopped. So the
work is a short-lived child with limits on time and memory, an empty environment and no files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from sandbox_server.errors import UpstreamFailed

MAX_INPUT = 2 * 1024**2
_CHILD = Path(__file__).with_name("markdown_child.py")


class Markdown:
    """At most two conversions at once, `timeout` seconds each."""

    def __init__(self, *, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._limiter = anyio.CapacityLimiter(2)

    async def convert(self, html: str) -> str:
        """Raises UpstreamFailed for HTML that is too large, or takes too long or too much memory."""
        data = html.encode()
        if len(data) > MAX_INPUT:
            raise _failed(f"has {len(data):,} bytes; {MAX_INPUT:,} are converted")
        async with self._limiter:
            with anyio.move_on_after(self._timeout):
                done = await anyio.run_process(
                    [sys.executable, "-I", "-X", "utf8", str(_CHILD)],
                    input=data,
                    check=False,
                    env={},
                    cwd="/",
                )
                if done.returncode != 0:
                    raise _failed("can't be converted")
                return done.stdout.decode()
        raise _failed(f"was not converted within {self._timeout:g} s")


def _failed(what: str) -> UpstreamFailed:
    return UpstreamFailed(f"The HTML {what}.", reason="web.markdown", hint="Ask without format.")
