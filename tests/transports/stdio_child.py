"""A stdio server as its own process, which talks on stdout in every way that it shouldn't."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio

from sandbox_server.app import until_signalled
from sandbox_server.execution.api import OnEvent
from sandbox_server.execution.models import RunRequest, RunResult
from sandbox_server.protocol.server import build_server
from sandbox_server.transports.stdio import serve_stdio
from tests.protocol.fake_executor import OK, FakeExecutor


class LoudExecutor(FakeExecutor):
    async def close_connection(self, connection: str) -> None:
        print("closed connection", file=sys.stderr, flush=True)


async def loud(request: RunRequest, on_event: OnEvent) -> RunResult:
    print("a stray print", flush=True)
    os.write(1, b"a stray write\n")
    subprocess.run(["echo", "a stray child"], check=True)
    assert sys.stdin.read() == ""
    return OK


def main() -> None:
    executor = LoudExecutor(script=loud)
    server = build_server(executor, version="0")

    async def serve() -> None:
        await serve_stdio(server, executor)

    anyio.run(until_signalled, serve)


if __name__ == "__main__":
    main()
