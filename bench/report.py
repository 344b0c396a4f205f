"""What was measured, as rows: printed as a table, kept as JSON, compared with an earlier run's."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rich.console import Console
from rich.table import Table

from bench.stats import Samples

Unit = Literal["ms", "MiB", "/s", "MB/s", "x", "count"]

FOOT = (
    "Ratios are within this run: what is compared was measured in turns, because machines differ and are "
    "noisy."
)


@dataclass(frozen=True)
class Row:
    """One line. `ratio` is what the target is about, in `bound`'s terms; without `bound` there is no
    target and the row is there for comparison. `at_most`: whether less is better."""

    name: str
    unit: Unit
    p50: float
    p95: float | None = None
    p99: float | None = None
    samples: int = 1
    target: str = ""
    ratio: float | None = None
    bound: float | None = None
    at_most: bool = True
    note: str = ""

    @classmethod
    def of(cls, name: str, samples: Samples, **target: Any) -> Self:
        """Of times in seconds, shown as milliseconds."""
        p50, p95, p99 = (1000 * value for value in (samples.p50, samples.p95, samples.p99))
        return cls(name, "ms", p50, p95, p99, len(samples), **target)

    @property
    def met(self) -> bool | None:
        if self.ratio is None or self.bound is None:
            return None
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    @property
    def verdict(self) -> str:
        if self.met is None or self.ratio is None or self.bound is None:
            return ""
        if self.met:
            return "met"
        if self.bound == 0:
            return f"missed by {self.ratio:g}"
        over = (self.ratio / self.bound if self.at_most else self.bound / max(self.ratio, 1e-9)) - 1
        return f"missed by {over:.0%}"


@dataclass(frozen=True)
class Report:
    machine: dict[str, Any]
    rows: list[Row]
    seconds: float
    quick: bool
    remarks: list[str]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**asdict(self), "verdicts": {row.name: row.verdict for row in self.rows if row.verdict}}
        path.write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        content = json.loads(path.read_text())
        rows = [Row(**row) for row in content["rows"]]
        return cls(content["machine"], rows, content["seconds"], content["quick"], content["remarks"])

    def print(self, console: Console) -> None:
        console.print(self.table())
        for row in self.rows:
            if row.note:
                console.print(f"* {row.name}: {row.note}", highlight=False)
        for remark in (*self.remarks, FOOT):
            console.print(f"* {remark}", highlight=False)

    def table(self) -> Table:
        machine = self.machine
        title = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
            f"kernel {machine['kernel']}, Docker {machine['docker']} (cgroup {machine['cgroup']}); "
            f"load {machine['load'][0]}, {machine['busy']:.0%} busy before; {self.seconds:.0f} s"
        )
        table = Table(title=title, title_justify="left", title_style="dim")
        table.add_column("what")
        for name in ("p50", "p95", "p99", "n"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("target", "measured", "verdict"):
            table.add_column(name, no_wrap=name != "target")
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{_number(row.ratio)}"
            style = {True: "green", False: "red", None: ""}[row.met]
            numbers = [_quantity(value, row.unit) for value in (row.p50, row.p95, row.p99)]
            verdict = f"[{style}]{row.verdict}[/]" if style else ""
            table.add_row(row.name, *numbers, str(row.samples), row.target, ratio, verdict)
        return table


def compare(before: Report, after: Report) -> Table:
    """Every row that both have: the p50s, and how much more or less."""
    table = Table(title="before and after", title_justify="left", title_style="dim")
    table.add_column("what")
    for name in ("before", "after", "change", "verdict before", "verdict after"):
        table.add_column(name, justify="right")
    earlier = {row.name: row for row in before.rows}
    for row in after.rows:
        was = earlier.get(row.name)
        if was is None or was.unit != row.unit:
            continue
        table.add_row(
            row.name,
            _quantity(was.p50, was.unit),
            _quantity(row.p50, row.unit),
            change(was.p50, row.p50),
            was.verdict,
            row.verdict,
        )
    return table


def change(before: float, after: float) -> str:
    return "" if before == 0 else f"{after / before - 1:+.0%}"


def _quantity(value: float | None, unit: Unit) -> str:
    if value is None:
        return ""
    return f"{_number(value)} {unit}" if unit != "count" else f"{value:.0f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
