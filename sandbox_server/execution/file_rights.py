"""File rules where names show only in the sandbox: entries of a listing, matches of a search, and whether
what is moved is a directory. The names in the call itself are the policy's to judge, before it comes here.

The rules are about names. Where a symbolic link leads is not looked at: inside its sandbox a program can
read and write whatever its user can, and the rules are not its walls.
"""

from __future__ import annotations

from dataclasses import replace

from sandbox_server.errors import PolicyDenied
from sandbox_server.execution import file_models as models
from sandbox_server.execution.files import Files
from sandbox_server.execution.paths import WORKSPACE, readable_path
from sandbox_server.guards.files import FileRules


def rooted(operation: models.FileOperation, rules: FileRules | None) -> models.FileOperation:
    """With relative paths as they are meant: from the root that the policy names."""
    if rules is None or rules.root == WORKSPACE:
        return operation
    if isinstance(operation, models.MoveFile | models.CopyFile):
        operation = replace(operation, to=_below(rules.root, operation.to))
    return replace(operation, path=_below(rules.root, operation.path))


async def perform(
    files: Files, operation: models.FileOperation, rules: FileRules | None
) -> models.FileResult:
    """What the rules allow of the operation. Raises PolicyDenied, and what `files` raises."""
    if rules is None:
        return await files.perform(operation)
    if isinstance(operation, models.MoveFile):
        await _check_move(files, operation, rules)
    result = await files.perform(operation)
    match result:
        case models.Listing():
            top = readable_path(operation.path)
            shown = [each for each in result.entries if _seen("list", top, each.path, each.escaped, rules)]
            return replace(result, entries=tuple(shown))
        case models.Matches():
            top = readable_path(operation.path)
            found = [each for each in result.matches if _seen("read", top, each.path, each.escaped, rules)]
            return replace(result, matches=tuple(found))
    return result


def may_read(path: str, rules: FileRules | None) -> bool:
    """Whether a file of the workspace may be read; `path` is relative to it."""
    return rules is None or rules.check("read", f"{WORKSPACE}/{path}") is None


async def _check_move(files: Files, operation: models.MoveFile, rules: FileRules) -> None:
    """A directory takes all that is in it along, which the names in the call don't tell."""
    entry = await files.perform(models.StatFile(operation.path))
    if not isinstance(entry, models.Entry) or entry.type != "directory":
        return
    for op, path in (("read", operation.path), ("delete", operation.path), ("write", operation.to)):
        absolute = readable_path(path)
        rule = rules.check(op, absolute, tree=True)
        if rule is not None:
            raise PolicyDenied(
                f"the policy denies to {op} something in {absolute[:200]}",
                rule=rule,
                hint="nothing was moved; move the files that you need one by one",
            )


def _seen(op: str, top: str, path: str, escaped: bool, rules: FileRules) -> bool:
    if escaped and any(True for _ in rules.deny):
        return False  # its true name is not known here, so no rule can be asked about it
    return rules.check(op, f"{top}/{path}" if path else top) is None


def _below(root: str, path: str) -> str:
    return path if path.startswith("/") else f"{root}/{path}"
