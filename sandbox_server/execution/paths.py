"""Paths that a caller names, before they are sent into a sandbox.

Only a courtesy: files are opened inside the sandbox, by its own user, so a path that got
past this could harm nothing but that sandbox. What it gives is an early, clear error.
"""

from __future__ import annotations

from sandbox_server.errors import InvalidRequest

WORKSPACE = "/workspace"
READABLE = (WORKSPACE, "/tmp")  # noqa: S108 - the sandbox's
MAX_PATH = 1024
IN_CODE = (
    "a name that lists show as escaped is reached from code only: with code_execution rename it, "
    "like os.rename(glob.glob('plain-part*')[0], 'plain'), or use its directory here"
)


def workspace_path(path: str) -> str:
    """`path` relative to the workspace. Raises InvalidRequest if it names nothing below it."""
    shown = repr(path[:80])
    relative = _plain(path).removeprefix(WORKSPACE + "/")
    parts = _parts(relative)
    if relative.startswith("/") or not parts or ".." in parts or relative.endswith("/"):
        raise InvalidRequest(f"path {shown} is not a file below {WORKSPACE}", hint="like 'data/input.csv'")
    return "/".join(parts)


def readable_path(path: str) -> str:
    """The absolute path in the sandbox; relative ones are in the workspace, whose own name is ".".

    Raises InvalidRequest for what is neither in the workspace nor in /tmp.
    """
    parts = _parts(_plain(path))
    absolute = "/" + "/".join(parts) if path.startswith("/") else "/".join([WORKSPACE, *parts])
    inside = any(absolute == root or absolute.startswith(root + "/") for root in READABLE)
    if not path or ".." in parts or not inside:
        raise InvalidRequest(
            f"path {path[:80]!r} is not in {' or '.join(READABLE)}",
            hint="name it relative to /workspace, without '..', like 'data/input.csv'",
        )
    return absolute


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _plain(path: str) -> str:
    """`path` as it is. Raises InvalidRequest if it can't be shown or is too long to exist."""
    shown = repr(path[:80])
    if "\0" in path or not path.isprintable():
        raise InvalidRequest(f"path {shown} holds characters that can't be shown", hint=IN_CODE)
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"path {shown} is not valid Unicode", hint="use a plain file name") from None
    if size > MAX_PATH or any(len(part.encode()) > 255 for part in path.split("/")):
        raise InvalidRequest(f"path {shown} is too long", hint=f"at most {MAX_PATH} bytes, 255 a name")
    return path
