"""`python -m demo`: exit status 0 only if everything that it claims was seen to be true."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import anyio
from mcp import Client
from rich.console import Console

from demo.clients import setups
from demo.sales import make_sales
from demo.server import NoServer, running_server
from demo.steps import STEPS, Broken, Stage, claim

OUTPUT = Path("demo-output")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the plot and the server's log go")
    output = parser.parse_args().output.resolve()
    console = Console(highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "server.log"
    try:
        anyio.run(partial(_demonstrate, console, output, log))
    except KeyboardInterrupt:
        console.print("\ninterrupted; the server was stopped and its containers are gone")
        return 130
    except BaseExceptionGroup as group:
        # Task groups of the client wrap what happened inside them.
        wrapped = group.subgroup((Broken, NoServer))
        if wrapped is None:
            raise
        return _fail(console, _first(wrapped), log)
    except (Broken, NoServer) as error:
        return _fail(console, error, log)
    _print_setups(console)
    return 0


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fail(console: Console, error: BaseException, log: Path) -> int:
    what = "the server does not start" if isinstance(error, NoServer) else "a claim does not hold"
    console.print(f"\n[bold red]demo failed[/]: {what}:", end=" ")
    console.print(str(error), markup=False)
    console.print(f"the server's log is {log}", markup=False, soft_wrap=True)
    return 1


async def _demonstrate(console: Console, output: Path, log: Path) -> None:
    # The handshake of the legacy era makes an HTTP session, which keeps its state between calls.
    # In the 2026-07-28 era each HTTP request stands alone and would get a sandbox of its own.
    async with running_server(log) as server, Client(server.url, mode="legacy") as client:
        tools = ", ".join(tool.name for tool in (await client.list_tools()).tools)
        version = client.protocol_version
        console.print(
            f"[bold]sandbox-server[/] at {server.url}, MCP {version}, tools: {tools}\n", soft_wrap=True
        )
        stage = Stage(client, make_sales(), output, server.port)
        for number, step in enumerate(STEPS, 1):
            console.print(f"[bold]{number}. {step.title}[/]")
            console.print(f"   {await step.act(stage)}", markup=False, soft_wrap=True)
    left = await server.containers_left()
    claim(left == 0, "the server leaves no container behind", f"{left} containers")
    console.print(f"[bold]{len(STEPS) + 1}. The server stops[/]\n   no container is left")


def _print_setups(console: Console) -> None:
    console.print("\n[bold green]Everything above was checked.[/] Connect your client:\n")
    for setup in setups():
        where = "" if setup.where == "shell" else f" ({setup.where})"
        console.print(f"[bold]{setup.client}[/]{where}")
        console.print(f"{setup.text}\n", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
