"""What every measurement is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.dockerapi import DockerApi
from bench.raw import Raw
from bench.report import Row


@dataclass
class Bench:
    """`directory` is temporary. `say` tells who waits what is going on."""

    directory: Path
    raw: Raw
    api: DockerApi
    quick: bool
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def times(self, full: int, quick: int) -> int:
        return quick if self.quick else full
