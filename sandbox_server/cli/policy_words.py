"""A decision and an effective policy, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def decision_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Of a decision record."""
    observed = " (only observed: it would be denied)" if record["would_deny"] else ""
    message = f": {record['message']}" if record["message"] else ""
    yield f"{record['decision']}{observed}{message}"
    yield f"  rule    {record['rule']}"
    yield f"  reason  {record['reason']}"
    for key in ("hint", "nearest"):
        if record[key]:
            yield f"  {key:7} {record[key]}"
    for key, value in record["resource"].items():
        yield f"  judged  {key}: {value}"
    for name, limit in record["limits"].items():
        per = f" in {limit['per']:g}s" if limit.get("per") else ""
        yield f"  limit   {name} = {limit['value']}{per}  ({limit['source']})"
    for number, step in enumerate(record["trace"], 1):
        yield f"  {number}. {step}"


def effective_lines(view: Mapping[str, Any]) -> Iterator[str]:
    """Of `policy.views.effective_view`."""
    yield from _lines("", view)


def _lines(indent: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list | tuple) and inner:
                yield f"{indent}{key}:"
                yield from _lines(indent + "  ", inner)
            elif inner not in (None, "", {}, [], ()):
                yield f"{indent}{key}: {inner}"
        return
    for each in value:
        if isinstance(each, Mapping):
            said = (f"{key}: {inner}" for key, inner in each.items() if inner not in (None, "", [], ()))
            yield f"{indent}- " + ", ".join(said)
        else:
            yield f"{indent}- {each}"
