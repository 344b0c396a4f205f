"""The languages: one declarative entry each. Adding one means adding an entry here.

`mode` "fork": the runner forks its warm Python interpreter and executes the code in it.
`mode` "spawn": the runner writes the code to `file` in a directory of its own and starts
`argv`, in which the item "{file}" becomes that path. The caller's `args` follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Language:
    name: str
    image: str
    mode: Literal["fork", "spawn"]
    file: str
    argv: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    stateful: bool = False
    """Whether variables live on between the calls of one connection (files always do)."""


LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language("python", "python", "fork", "main.py", aliases=("py", "python3"), stateful=True),
        Language("javascript", "node", "spawn", "main.js", ("/usr/bin/node", "{file}"), ("js", "node")),
        Language("bash", "shell", "spawn", "main.sh", ("/bin/bash", "{file}"), ("sh", "shell")),
    )
}
