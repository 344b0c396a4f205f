"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Policy = Annotated[
    Path | None, typer.Option(help="Policy file (YAML). Default: $SANDBOX_SERVER_POLICY or the shipped one.")
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        help="Where ids, logs, secrets and kept files are. Default: $SANDBOX_SERVER_STATE_DIR or XDG's."
    ),
]
Instance = Annotated[
    str | None, typer.Option(help="Name of this server where several share a state directory.")
]
AllowMissing = Annotated[
    list[str] | None,
    typer.Option(metavar="LIMIT", help="Run although the host can't apply this limit. Repeatable. Insecure."),
]
