"""Rules for the tool `filesystem`. They hold for the names in a call: a program inside the sandbox is
bound by the sandbox, not by them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sandbox_server.guards.files import Glob
from sandbox_server.policy.schema.base import AllowRule, Bytes, Rule, Strict

Op = Literal["read", "write", "list", "delete"]
OPS: tuple[Op, ...] = ("read", "write", "list", "delete")


def _path_glob(text: str) -> str:
    Glob.parse(text)
    return text


PathText = Annotated[str, AfterValidator(_path_glob)]


def _root(text: str) -> str:
    if text != "/workspace" and not text.startswith("/workspace/"):
        raise ValueError("must be /workspace or a directory below it")
    if any(part in ("", ".", "..") for part in text[1:].split("/")) or "*" in text:
        raise ValueError("must be a plain absolute path")
    return text


class FileAllow(AllowRule):
    path: PathText
    ops: tuple[Op, ...]


class FileDeny(Rule):
    """Without `ops`: all of them."""

    path: PathText
    ops: tuple[Op, ...] = Field(default=OPS)


class Files(Strict):
    """`root` is where relative paths begin."""

    root: Annotated[str, AfterValidator(_root)] = "/workspace"
    allow: tuple[FileAllow, ...] = ()
    deny: tuple[FileDeny, ...] = ()
    max_file: Bytes | None = None
