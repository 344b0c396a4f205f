"""`python -m demo`: exit status 0 only if everything that it claims was seen to be true."""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
from mcp import Client
from rich.console import Console

from demo.clients import setups
from demo.sales import Sales, make_sales
from demo.server import NoServer, Running, running_server
from demo.stage import Broken, Stage, claim
from demo.steps import STEPS

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
    sales = make_sales()
    with tempfile.TemporaryDirectory(prefix="sandbox-demo-") as state:
        async with running_server(log, Path(state), sales) as server:
            await _perform(console, server, sales, output)
        console.print(f"[bold]{len(STEPS) + 1}. The server stops[/]\n   {await _left(server)}")


async def _perform(console: Console, server: Running, sales: Sales, output: Path) -> None:
    # The handshake of the legacy era makes an HTTP session, which keeps its state between calls.
    # In the 2026-07-28 era each HTTP request stands alone and would get a sandbox of its own.
    async with Client(server.url, mode="legacy") as client:
        tools = ", ".join(tool.name for tool in (await client.list_tools()).tools)
        console.print(
            f"[bold]sandbox-server[/] at {server.url}, MCP {client.protocol_version}", soft_wrap=True
        )
        console.print(f"tools: {tools}\n", soft_wrap=True)
        stage = Stage(client, sales, output, server.port)
        for number, step in enumerate(STEPS, 1):
            console.print(f"[bold]{number}. {step.title}[/]")
            console.print(f"   {await step.act(stage)}", markup=False, soft_wrap=True)


async def _left(server: Running) -> str:
    left = await server.containers_left()
    claim(left == 0, "the server leaves no container behind", f"{left} containers")
    proof = server.decisions()
    claim(proof.holds and proof.lines > 0, "the decision log holds", proof)
    return f"no container is left; its decision log of {proof.lines} hash-chained lines holds"


def _print_setups(console: Console) -> None:
    console.print("\n[bold green]Everything above was checked.[/] Connect your client:\n")
    for setup in setups():
        where = "" if setup.where == "shell" else f" ({setup.where})"
        console.print(f"[bold]{setup.client}[/]{where}")
        console.print(f"{setup.text}\n", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
