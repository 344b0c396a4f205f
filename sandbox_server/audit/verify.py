"""The proof of the chain, from the first line that is kept to the last, over all files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_server.audit.chain import GENESIS, MAX_LINE, Broken, Link, unseal
from sandbox_server.audit.files import PATTERN
from sandbox_server.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    file: str
    line: int
    what: str


@dataclass(slots=True)
class Proof:
    """What was found. `broken` is the first line that does not hold, `head` the last hash that does.

    `first` and `last` are line numbers over the life of the log: more than 1 in `first` means that older
    files were dropped by rotation. `torn` are bytes of a last line that a killed server left half written.
    That whole lines were cut off the end shows only against a head that was kept elsewhere.
    """

    files: int = 0
    lines: int = 0
    first: int = 0
    last: int = 0
    head: str = GENESIS
    torn: int = 0
    interrupted: int = 0
    """How often the log was taken up again after a line that was cut in the middle."""
    lost: int = 0
    """Lines that the log itself says it could not write."""
    broken: Place | None = None
    head_at: int | None = None
    """The number of the line that has the hash asked for."""
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.broken is None


def log_files(paths: Iterable[Path]) -> list[Path]:
    """The files of the log in order, of directories and of files. Raises ConfigError."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(f"{path}: there is no decision log in it", hint=f"looked for {PATTERN}")
        found.extend(inside)
    return sorted(found, key=lambda each: each.name)


def verify(paths: Iterable[Path], *, head: str | None = None) -> Proof:
    """Stops at the first line that does not hold. `head`: a hash that must be in the log.

    Raises ConfigError if a file can't be read.
    """
    proof = Proof()
    if head == GENESIS:
        proof.head_at = 0
    files = log_files(paths)
    for number, path in enumerate(files):
        proof.files += 1
        _verify_file(path, proof, head, newest=number == len(files) - 1)
        if proof.broken:
            return proof
    if head is not None and proof.head_at is None:
        what = f"no line has the hash {head[:64]}: lines were cut off the end, or the log was forged"
        proof.broken = Place(str(files[-1]), proof.lines, what)
    return proof


def read_entries(paths: Iterable[Path]) -> Iterator[dict[str, object]]:
    """What the lines say, for tools that learn from them. Raises ConfigError at a line that is broken."""
    for path in log_files(paths):
        for number, line in enumerate(_lines(path), 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield dict(unseal(line[:-1]).fields)
            except Broken as error:
                raise ConfigError(
                    f"{path}:{number}: {error}", hint="sandbox-server audit verify says more"
                ) from None


def _verify_file(path: Path, proof: Proof, head: str | None, *, newest: bool) -> None:
    for number, line in enumerate(_lines(path), 1):
        if not line.endswith(b"\n") and newest and len(line) <= MAX_LINE:
            proof.torn = len(line)
            return
        try:
            link = unseal(line.removesuffix(b"\n"))
            if not line.endswith(b"\n"):
                raise Broken("the line does not end")
            _follow(link, proof)
        except Broken as error:
            proof.broken = Place(str(path), number, str(error))
            return
        if link.hash == head:
            proof.head_at = link.seq


def _follow(link: Link, proof: Proof) -> None:
    if proof.lines == 0:
        if (link.seq == 1) != (link.previous == GENESIS):
            raise Broken("it says to be the first line of all, and is not")
        proof.first = link.seq
    elif link.previous != proof.head or link.seq != proof.last + 1:
        raise Broken(_gap(link, proof.last + 1))
    proof.lines += 1
    proof.last, proof.head = link.seq, link.hash
    if link.fields.get("kind") == "opened":
        proof.interrupted += "torn" in link.fields
        lost = link.fields.get("lost", 0)
        proof.lost += lost if type(lost) is int else 0


def _gap(link: Link, expected: int) -> str:
    if link.seq > expected:
        return f"{link.seq - expected} lines are missing before it: it is number {link.seq}, not {expected}"
    if link.seq < expected:
        return f"out of order or put in: it is number {link.seq}, where number {expected} belongs"
    return "it does not follow the line before it, which was changed or replaced"


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while line := stream.readline(MAX_LINE + 2):
                yield line
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", hint="give a file of the log") from None
