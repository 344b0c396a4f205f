"""What each image is made of, and the tag that follows from it.

A tag is content-addressed: it holds a hash over every input that this project controls (Dockerfile,
locks, runner, and the same of the parent). Debian's packages are not among them: without a snapshot
mirror they can't be pinned, so an image records what it got in /usr/share/sandbox/packages.txt, and
`images build --fresh` takes what the mirror has today.

    rootfs (pulled or bootstrapped) -> base-tools -> node-tools
                                                      -> shell-tools -> python-tools | polyglot-tools
    X-tools + runner -> X        the sandbox images; a new runner rebuilds only these
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.errors import ConfigError
from sandbox_server.shipped import shipped

REPOSITORY = "mcp-sandbox"
ROOTFS = f"{REPOSITORY}/rootfs:trixie"
LABEL_NAME = "sandbox-server.image"
LABEL_REVISION = "sandbox-server.revision"
LABEL_STAGE = "sandbox-server.stage"
"""Marks the inner stages of a build, which nothing needs afterwards."""

DEFAULT = ("base", "python", "node", "shell")
"""The images that are built unless somebody says which."""

NAMES = (*DEFAULT, "polyglot")
"""The images a profile may name."""

# Python stands on shell, so that a policy can give bash and python one sandbox and its files.
_PARENTS = {"python": "shell", "node": "base", "shell": "base", "polyglot": "shell"}

_LOCK = "requirements.lock"
_RUNNER = (".py", ".js", ".sh")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image: the files of its build context by their name in it, and what it stands on."""

    name: str
    parent: Recipe | None
    files: tuple[tuple[str, Path], ...]

    @property
    def lock(self) -> Path | None:
        """The wheels that this image installs, if any: a requirements file with hashes."""
        return dict(self.files).get(_LOCK)

    @property
    def parent_tag(self) -> str:
        return self.parent.tag if self.parent else ROOTFS

    @property
    def revision(self) -> str:
        """Hex SHA-256 over all inputs. Lengths are hashed too, so that no two inputs run together."""
        total = hashlib.sha256()
        parent = self.parent.revision if self.parent else ROOTFS
        for part in (self.name.encode(), parent.encode(), *_parts(self.files)):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
        return total.hexdigest()

    @property
    def tag(self) -> str:
        return f"{REPOSITORY}/{self.name}:{self.revision[:12]}"

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL_NAME: self.name, LABEL_REVISION: self.revision}


def recipe(name: str, root: Path | None = None) -> Recipe:
    """The recipe of the sandbox image `name`, read from `root` (default: the shipped files).

    Raises ConfigError for a name that is not in NAMES.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no image {name!r}", hint=f"one of {', '.join(NAMES)}")
    root = root or shipped("images")
    runner = [(f"runner/{path.name}", path) for path in (root / "runner").iterdir() if path.suffix in _RUNNER]
    if not runner:
        raise ConfigError("images/runner holds no program", hint="install the package again")
    files = [("Dockerfile", root / "sandbox.Dockerfile"), *runner]
    return Recipe(name=name, parent=_tools(name, root), files=tuple(sorted(files)))


def tag_of(name: str, root: Path | None = None) -> str:
    """The tag that the image `name` has when it is up to date. Reads files, asks no engine.

    Raises ConfigError for a name that is not in NAMES.
    """
    return recipe(name, root).tag


def _tools(name: str, root: Path) -> Recipe:
    parent = _tools(_PARENTS[name], root) if name in _PARENTS else None
    files = sorted((path.name, path) for path in (root / name).iterdir() if path.is_file())
    return Recipe(name=f"{name}-tools", parent=parent, files=tuple(files))


def _parts(files: tuple[tuple[str, Path], ...]) -> list[bytes]:
    return [part for name, path in files for part in (name.encode(), path.read_bytes())]
