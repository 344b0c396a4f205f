"""What a build tells about itself while it runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)$")


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` (0 to 1) of this image's work that is done, or None while that can't be known.

    `line` is a line of the log and may hold anything that a package prints.
    """

    image: str
    line: str
    fraction: float | None = None


Report = Callable[[Progress], None]


def reporter(image: str, report: Report) -> Callable[[str], None]:
    """A log function that reports each line, with the fraction where the builder says its step."""
    fraction: float | None = None

    def log(line: str) -> None:
        nonlocal fraction
        if step := _STEP.match(line):
            fraction = (int(step[1]) - 1) / int(step[2])
        report(Progress(image=image, line=line, fraction=fraction))

    return log
