"""What is wrong with a policy, with its place: `file:line:column: path: what, did you mean`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from sandbox_server.errors import ConfigError
from sandbox_server.policy.document import Document, Mark, Path
from sandbox_server.policy.schema.base import Strict
from sandbox_server.policy.schema.file import PolicyFile
from sandbox_server.policy.units import quantity_text

_MOST_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Found:
    mark: Mark
    path: Path
    what: str


def refusal(source: str, found: Iterable[Found]) -> ConfigError:
    """All of them in one error, in the order of the file. A mark without a file is in `source`."""
    ordered = sorted(found, key=lambda f: _order(f.mark))
    lines = []
    for problem in ordered[:_MOST_SHOWN]:
        place = f"{problem.mark.file or source}:{problem.mark.line}:{problem.mark.column}: "
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


def explained(errors: Iterable[ErrorDetails], document: Document) -> list[Found]:
    """Pydantic's complaints. Only those that will be shown are put into words: there may be very many."""
    placed = []
    for error in errors:
        path = tuple(step for step in error["loc"] if step != "[key]")
        at_key = error["type"] in ("extra_forbidden", "missing") or "[key]" in error["loc"]
        placed.append((document.mark(path, key=at_key), path, error))
    placed.sort(key=lambda each: _order(each[0]))
    return [
        Found(mark, path, _what(error, path) if index < _MOST_SHOWN else "")
        for index, (mark, path, error) in enumerate(placed)
    ]


def _order(mark: Mark) -> tuple[bool, str, int, int]:
    """The policy's own file first."""
    return (mark.file != "", mark.file, mark.line, mark.column)


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
            return f"expected {context['expected']}" + _meant(error.get("input"), str(context["expected"]))
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


def _meant(given: object, expected: str) -> str:
    choices = [choice for choice in expected.split("'")[1::2] if choice]
    near = difflib.get_close_matches(given[:80], choices, n=1) if isinstance(given, str) else []
    return f", did you mean '{near[0]}'?" if near else ""


def _unknown_key(path: Path) -> str:
    model = _model_at(path[:-1])
    key = str(path[-1])
    if model is None:
        return "unknown key"
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
            inner = [argument for argument in get_args(here) if argument is not Ellipsis]
            here = _bare(inner[-1]) if inner else None
    return here if isinstance(here, type) and issubclass(here, Strict) else None


def _bare(annotation: Any) -> Any:
    """Without `| None` and without what is said beside the type."""
    if get_origin(annotation) in (Union, UnionType):
        return _bare(next((a for a in get_args(annotation) if a is not type(None)), None))
    return _bare(annotation.__origin__) if hasattr(annotation, "__metadata__") else annotation
