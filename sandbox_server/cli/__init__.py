"""The command line. `main` is the console script; every command is a module beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from sandbox_server import __version__
from sandbox_server.cli.audit import commands as audit
from sandbox_server.cli.doctor import doctor
from sandbox_server.cli.failures import Options, report
from sandbox_server.cli.images import commands as images
from sandbox_server.cli.policy import commands as policy
from sandbox_server.cli.run import run
from sandbox_server.cli.serve import serve
from sandbox_server.observe.logs import Level, setup_logs


def main() -> None:
    """Parse the arguments, run the command, turn our errors into one line and an exit status."""
    options = Options()
    try:
        _commands()(obj=options)
    except BaseException as error:
        raise SystemExit(report(error, debug=options.debug)) from None


def _commands() -> typer.Typer:
    commands = typer.Typer(
        name="sandbox-server",
        help="An MCP server: untrusted code in throwaway containers; files, web and SQL by policy.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    commands.callback()(_common)
    commands.command()(serve)
    commands.command()(run)
    commands.add_typer(images(), name="images")
    commands.add_typer(policy(), name="policy")
    commands.add_typer(audit(), name="audit")
    commands.command()(doctor)
    commands.command()(version)
    return commands


def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    log_level: Annotated[Level | None, typer.Option("--log-level", help="What to log to stderr.")] = None,
) -> None:
    options = context.ensure_object(Options)
    options.debug = debug
    # A command says itself what went wrong; whoever runs a server wants to know what it does.
    quiet: Level = "info" if context.invoked_subcommand == "serve" else "critical"
    setup_logs("debug" if debug else log_level or quiet)


def version() -> None:
    """Print the version."""
    typer.echo(__version__)
