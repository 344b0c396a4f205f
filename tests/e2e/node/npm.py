"""The foreign clients of package-lock.json, installed once for each version of that file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / "build" / "node"


@dataclass(frozen=True)
class NodeTools:
    """Where they are. The machine's own Node.js only runs npm: it may be too old for the clients."""

    directory: Path

    def conformance(self, *arguments: str) -> list[str]:
        return [
            *self._node(),
            str(self._modules("@modelcontextprotocol/conformance/dist/index.js")),
            *arguments,
        ]

    def inspector(self, *arguments: str) -> list[str]:
        return [*self._node(), str(self._modules(".bin/mcp-inspector")), "--cli", *arguments]

    def requirements(self, revision: str) -> Path:
        """The suite's own list of what a revision requires."""
        return self._modules(f"@modelcontextprotocol/conformance/requirements/{revision}.yaml")

    def environment(self) -> dict[str, str]:
        """With our Node.js first, for programs that start a `node` of their own."""
        return {**os.environ, "PATH": f"{self._modules('.bin')}{os.pathsep}{os.environ['PATH']}"}

    def _node(self) -> list[str]:
        return [str(self._modules(".bin/node"))]

    def _modules(self, path: str) -> Path:
        return self.directory / "node_modules" / path


def install() -> NodeTools:
    """Install what is locked, unless it is there. Scripts of packages are not run.

    Raises FileNotFoundError without npm and CalledProcessError with npm's complaint.
    """
    lock = (HERE / "package-lock.json").read_bytes()
    target = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not target.exists():
            _install(target)
    return NodeTools(target)


def _install(target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is needed to install the foreign MCP clients: apt-get install npm")
    unfinished = target.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, unfinished / name)
    subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=unfinished,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    unfinished.rename(target)
