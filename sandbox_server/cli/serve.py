"""`sandbox-server serve`"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import anyio
import typer

from sandbox_server import app
from sandbox_server.cli import options
from sandbox_server.config import Endpoint, Settings


def serve(
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option(help="stdio: one client, started by it. http: streamable HTTP at /mcp."),
    ] = "stdio",
    host: Annotated[str, typer.Option(help="Address to serve HTTP on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve HTTP on; 0 takes a free one.")] = 8700,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve HTTP without tokens. Only on loopback.")
    ] = False,
    policy: options.Policy = None,
    state_dir: options.StateDir = None,
    instance: options.Instance = None,
    claims: Annotated[
        Path | None,
        typer.Option("--as", help="JSON file of a token's claims: who a caller without a token is."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve /metrics there, too. Only on loopback."),
    ] = None,
    insecure_allow_missing: options.AllowMissing = None,
) -> None:
    """Serve MCP until the client leaves or a signal comes."""
    settings = Settings.read(
        transport=transport,
        endpoint=Endpoint(host, port, no_auth),
        policy=policy,
        state_dir=state_dir,
        instance=instance,
        claims=claims,
        metrics=metrics,
        insecure_allow_missing=frozenset(insecure_allow_missing or ()),
    )
    if transport == "stdio" and sys.stdin.isatty():
        typer.echo("waiting for JSON-RPC on stdin; for people there is: sandbox-server run -", err=True)
    anyio.run(partial(app.until_signalled, partial(app.serve, settings)))
