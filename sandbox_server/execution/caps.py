"""The limits that a caller's arguments are held to before anything is run."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox_server.engines.profile import KIB, MIB
from sandbox_server.execution.grants import Rights


@dataclass(frozen=True, slots=True)
class Caps:
    """The most a caller may ask for, and what it gets when it asks for nothing.

    Times in seconds, sizes in bytes, `max_files` and `max_args` are counts. `max_files_bytes`
    is over all files of a call, after decoding. `default_output` and `max_output` are what is
    kept of each stream. `reuse`: whether some language may be asked to use its sandboxes again.
    `packages`: whether some may be asked for.
    """

    max_wall: float = 300.0
    default_wall: float = 30.0
    max_code: int = MIB
    max_output: int = MIB
    default_output: int = 256 * KIB
    max_files: int = 64
    max_files_bytes: int = 16 * MIB
    max_args: int = 64
    max_stdin: int = 4 * MIB
    reuse: bool = False
    packages: bool = False


def caps_of(rights: Rights) -> Caps:
    """Over all languages: the most of any, and the least of what they give without being asked."""
    grants = list(rights.languages.values())
    if not grants:
        return Caps()
    return Caps(
        max_wall=max(grant.ceiling.wall for grant in grants),
        default_wall=min(grant.defaults.wall for grant in grants),
        max_output=max(grant.ceiling.output for grant in grants),
        default_output=min(grant.defaults.output for grant in grants),
        max_files_bytes=max(grant.profile.limits.workspace for grant in grants),
        reuse=any(grant.reuse for grant in grants),
        packages=any(grant.packages for grant in grants),
    )
