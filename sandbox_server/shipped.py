"""Files that ship with the package but are not Python: image recipes and policies."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sandbox_server.errors import ConfigError


def shipped(name: Literal["images", "policies"]) -> Path:
    """The directory `name`: inside the package in an installed wheel, beside it in a checkout.

    Raises ConfigError if it is in neither place.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "_shipped" / name, package.parent / name):
        if place.is_dir():
            return place
    raise ConfigError(
        f"the directory {name}/ that belongs to sandbox-server is missing",
        hint="install the package again, or run it from a whole checkout",
    )
