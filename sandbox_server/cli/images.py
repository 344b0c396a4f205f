"""`sandbox-server images`: build, list and prune the images that sandboxes are made from."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from sandbox_server import app
from sandbox_server.cli.failures import INTERRUPTED
from sandbox_server.config import Settings
from sandbox_server.engines.base import ImageStore
from sandbox_server.images.build import build as build_images
from sandbox_server.images.inventory import ImageStatus, prune, statuses
from sandbox_server.images.progress import Progress as Step
from sandbox_server.images.progress import Report
from sandbox_server.images.recipes import DEFAULT, NAMES

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def commands() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="The images that sandboxes are made from.", no_args_is_help=True)
    group.command("build")(build)
    group.command("list")(list_)
    group.command("prune")(prune_)
    return group


def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"Which: {', '.join(NAMES)}. Default: all but polyglot, which is large."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Build all again, with today's packages.")] = False,
    ca_bundle: Annotated[
        Path | None,
        typer.Option(help="CA file for downloads behind a TLS-inspecting proxy. Never enters an image."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build the images that are missing or stale."""
    with _progress() as report:
        work = partial(
            build_images, names=tuple(names or DEFAULT), report=report, fresh=fresh, ca_bundle=ca_bundle
        )
        built = _with_store(lambda store: work(store))
    if as_json:
        typer.echo(json.dumps(built))
    else:
        for name, identity in built.items():
            typer.echo(f"{name:8} {identity}")


def list_(as_json: AsJson = False) -> None:
    """Show which images are there and which are stale. Exit status 1 unless all of the default ones are
    present, and no other is stale."""
    found = _with_store(statuses)
    if as_json:
        typer.echo(json.dumps([asdict(status) for status in found]))
    else:
        Console().print(_table(found))
    if any(
        status.state == "stale" or (status.state == "missing" and status.name in DEFAULT) for status in found
    ):
        raise typer.Exit(1)


def prune_(as_json: AsJson = False) -> None:
    """Remove images of ours that no current recipe needs."""
    removed = _with_store(prune)
    if as_json:
        typer.echo(json.dumps(removed))
    else:
        for tag in removed or ["nothing to remove"]:
            typer.echo(tag)


def _with_store(work: Callable[[ImageStore], Awaitable[T]]) -> T:
    async def opened() -> tuple[T]:
        async with app.open_image_store(Settings.read()) as store:
            return (await work(store),)

    result, received = anyio.run(partial(app.until_signalled, opened))
    if result is None:
        raise typer.Exit(128 + received if received else INTERRUPTED)
    return result[0]


def _table(found: list[ImageStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("image", "state", "size", "tag"):
        table.add_column(column)
    for status in found:
        size = f"{status.size / 1024**2:.0f} MiB" if status.size is not None else ""
        fix = "" if status.state == "present" else f"  run: sandbox-server images build {status.name}"
        table.add_row(status.name, status.state, size, status.tag + fix)
    return table


@contextmanager
def _progress() -> Iterator[Report]:
    """Bars on a terminal, otherwise each line of the log; always on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: typer.echo(f"{step.image}: {step.line}" if step.image else step.line, err=True)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:8}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[line]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars).report


class _Bars:
    """One bar for each image, in the order in which they come up."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def report(self, step: Step) -> None:
        if not step.image:
            self._bars.console.print(escape(step.line))
            return
        if step.image not in self._tasks:
            # Images are made one after the other; the one before is done, also if it never told how far.
            for done in self._tasks.values():
                self._bars.update(done, total=1.0, completed=1.0)
            self._tasks[step.image] = self._bars.add_task(step.image, total=None, line="")
        task = self._tasks[step.image]
        self._bars.update(task, line=escape(step.line[:100]))
        if step.fraction is not None:
            self._bars.update(task, total=1.0, completed=step.fraction)
