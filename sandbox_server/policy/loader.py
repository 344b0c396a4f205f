"""A policy file to a `Policy`. Everything that is wrong with it is said at once, each as
`file:line:column: path: what is wrong`, and nothing of a wrong file is used."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sandbox_server.errors import ConfigError
from sandbox_server.execution.grants import Sizing
from sandbox_server.policy.document import MAX_BYTES, Document, Malformed, Mark, Path, parse
from sandbox_server.policy.limits import Problem, grants_of, unfit
from sandbox_server.policy.models import Policy, PolicyFile, Strict
from sandbox_server.policy.units import quantity_text

_MOST_SHOWN: Final = 10
HOST_MEMORY: Final = 8 * 1024**3
"""What a share of the host's memory is taken of where no host is in sight."""


def load_policy(file: FilePath, *, host_memory: int = HOST_MEMORY) -> Policy:
    """`host_memory`: the bytes that `deployment.memory: 60%` is a part of.

    Raises ConfigError: unreadable, not strict YAML, unknown key, wrong unit, over a ceiling.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"policy {file}: {error.strerror or error}", hint="give a readable file with --policy"
        ) from None
    return parse_policy(raw, source=str(file), host_memory=host_memory)


def parse_policy(raw: bytes, *, source: str, host_memory: int = HOST_MEMORY) -> Policy:
    """As `load_policy`, of bytes. `source` is what errors call the file."""
    try:
        document = parse(raw)
    except Malformed as error:
        raise _refusal(source, [_Found(error.mark, error.path, error.what)]) from None
    if not isinstance(document.data, dict):
        raise _refusal(source, [_Found(Mark(1, 1), (), "expected a mapping that starts with schema:")])
    try:
        written = PolicyFile.model_validate(document.data)
    except ValidationError as error:
        raise _refusal(source, [_explained(e, document) for e in error.errors()]) from None
    return _resolved(written, document, source, host_memory)


@dataclass(frozen=True, slots=True)
class _Found:
    mark: Mark
    path: Path
    what: str


def _resolved(written: PolicyFile, document: Document, source: str, host_memory: int) -> Policy:
    problems: list[Problem] = []
    if len(written.roles) != 1:
        problems.append(Problem(("roles",), "this version takes exactly one role"))
        raise _refusal(source, [_Found(document.mark(p.path), p.path, p.what) for p in problems])
    ((name, role),) = written.roles.items()
    revision = _revision(written)
    grants = grants_of(written.ceilings, role.code, ("roles", name, "code"), revision, problems)
    sizing = written.deployment.sizing(host_memory)
    problems.extend(unfit(grants.values(), written.deployment, sizing))
    if problems:
        raise _refusal(source, [_Found(document.mark(p.path), p.path, p.what) for p in problems])
    return Policy(source, revision, name, grants, sizing)


def _revision(written: PolicyFile) -> str:
    content = {"file": written.model_dump(mode="json", by_alias=True), "built_in": asdict(Sizing())}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _refusal(source: str, found: Iterable[_Found]) -> ConfigError:
    ordered = sorted(found, key=lambda f: (f.mark.line, f.mark.column))
    lines = []
    for problem in ordered[:_MOST_SHOWN]:
        place = f"{source}:{problem.mark.line}:{problem.mark.column}: "
        path = dotted(problem.path)
        lines.append(place + (f"{path}: " if path else "") + problem.what)
    if len(ordered) > _MOST_SHOWN:
        lines.append(f"and {len(ordered) - _MOST_SHOWN} more problems")
    return ConfigError("\n".join(lines), hint="nothing of this policy is in force until it loads")


def dotted(path: Path) -> str:
    """`roles.basic.code.languages.python.preload[1]`, safe to print whatever the keys are."""
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
        else:
            plain = step if step.replace("-", "_").isidentifier() and step.isascii() else ascii(step)
            shown += ("." if shown else "") + (plain if len(plain) <= 60 else plain[:57] + "...")
    return shown


def _explained(error: ErrorDetails, document: Document) -> _Found:
    path = tuple(step for step in error["loc"] if step != "[key]")
    at_key = error["type"] in ("extra_forbidden", "missing") or "[key]" in error["loc"]
    return _Found(document.mark(path, key=at_key), path, _what(error, path))


def _what(error: ErrorDetails, path: Path) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(path)
        case "missing":
            return "is required"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"expected {context['expected']}"
        case "string_pattern_mismatch":
            return "not a valid name"
        case "model_type" | "dict_type":
            return "expected a mapping, {} if there is nothing to say"
        case "tuple_type":
            return "expected a list"
        case "greater_than_equal":
            return f"too small, the least is {quantity_text(str(path[-1]), context['ge'])}"
        case "less_than_equal":
            return f"too large, the most is {quantity_text(str(path[-1]), context['le'])}"
    return error["msg"][:1].lower() + error["msg"][1:]


def _unknown_key(path: Path) -> str:
    model = _model_at(path[:-1])
    key = str(path[-1])
    if model is None:
        return "unknown key"
    if key in model.LATER:
        return "part of the schema that this version does not enforce yet; remove it"
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.6)
    return f"unknown key, did you mean '{near[0]}'?" if near else f"unknown key, known are {', '.join(known)}"


def _model_at(path: Path) -> type[Strict] | None:
    """The model that the mapping at `path` is read as."""
    here: Any = PolicyFile
    for step in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            named = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
            here = _bare(named.get(str(step)))
        else:
            here = _bare(get_args(here)[-1]) if get_args(here) else None
    return here if isinstance(here, type) and issubclass(here, Strict) else None


def _bare(annotation: Any) -> Any:
    """Without `| None`."""
    if get_origin(annotation) in (Union, UnionType):
        return next((a for a in get_args(annotation) if a is not type(None)), None)
    return annotation
