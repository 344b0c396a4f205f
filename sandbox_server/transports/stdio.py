"""MCP over the process's stdin and stdout: one process, one connection, either era."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from sandbox_server.execution.api import Executor
from sandbox_server.protocol.connections import close_connection, stream_connection
from sandbox_server.protocol.server import SandboxMcpServer
from sandbox_server.transports.lines import LineTooLong, read_lines, write_all
from sandbox_server.transports.messages import Malformed, parse, serialize, too_long

MAX_LINE = 64 * 1024 * 1024


async def serve_stdio(server: SandboxMcpServer, executor: Executor) -> None:
    """Serve until stdin ends, stdout breaks or the caller cancels; then close the connection.

    Meanwhile descriptor 1 is stderr and descriptor 0 is empty, so that neither a stray
    `print` nor a child process can write into the protocol or eat from it.
    """
    with claimed_stdio() as (wire_in, wire_out):
        await serve_stream(server, executor, wire_in, wire_out)


async def serve_stream(server: SandboxMcpServer, executor: Executor, wire_in: int, wire_out: int) -> None:
    """`serve_stdio` over any two descriptors, one newline-ended JSON-RPC message per line."""
    to_server, from_client = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_client, from_server = anyio.create_memory_object_stream[SessionMessage](0)
    with stream_connection() as connection:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_read, wire_in, to_server, to_client.clone())
                tasks.start_soon(_write, wire_out, from_server, tasks.cancel_scope)
                await server.run(from_client, to_client, server.create_initialization_options())
                tasks.cancel_scope.cancel()
        finally:
            await close_connection(executor.close_connection, connection)


@contextmanager
def claimed_stdio() -> Iterator[tuple[int, int]]:
    """Private duplicates of descriptors 0 and 1, which are diverted until the block ends."""
    wire_in, wire_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        yield wire_in, wire_out
    finally:
        os.dup2(wire_in, 0)
        os.dup2(wire_out, 1)
        for descriptor in (nothing, wire_in, wire_out):
            os.close(descriptor)


async def _read(
    wire: int,
    to_server: MemoryObjectSendStream[SessionMessage | Exception],
    to_client: MemoryObjectSendStream[SessionMessage],
) -> None:
    async with to_server, to_client:
        async for line in read_lines(wire, limit=MAX_LINE):
            if isinstance(line, LineTooLong):
                await to_client.send(SessionMessage(too_long(MAX_LINE)))
                continue
            try:
                message = parse(line)
            except Malformed as error:
                await to_client.send(SessionMessage(error.reply))
            else:
                await to_server.send(message)


async def _write(
    wire: int, from_server: MemoryObjectReceiveStream[SessionMessage], scope: anyio.CancelScope
) -> None:
    async with from_server:
        async for item in from_server:
            try:
                await write_all(wire, serialize(item.message) + b"\n")
            except anyio.BrokenResourceError:
                # Nobody reads the answers any more: stop working for them.
                scope.cancel()
                return
