"""Paths that a caller names, before they are sent into a sandbox.

Only a courtesy: files are opened inside the sandbox, by its own user, so a path that got
past this could harm nothing but that sandbox. What it gives is an early, clear error.
"""

from __future__ import annotations

from sandbox_server.errors import InvalidRequest

WORKSPACE = "/workspace"
MAX_PATH = 1024


def workspace_path(path: str) -> str:
    """`path` relative to the workspace. Raises InvalidRequest if it names nothing below it."""
    shown = repr(path[:80])
    if "\0" in path or not path.isprintable():
        raise InvalidRequest(f"path {shown} holds control characters", hint="use a plain file name")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidRequest(f"path {shown} is not valid Unicode", hint="use a plain file name") from None
    relative = path.removeprefix(WORKSPACE + "/")
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if size > MAX_PATH or any(len(part.encode()) > 255 for part in parts):
        raise InvalidRequest(f"path {shown} is too long", hint=f"at most {MAX_PATH} bytes, 255 a name")
    if relative.startswith("/") or not parts or ".." in parts or relative.endswith("/"):
        raise InvalidRequest(f"path {shown} is not a file below {WORKSPACE}", hint="like 'data/input.csv'")
    return "/".join(parts)
