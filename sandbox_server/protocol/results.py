"""A run's result as a tool result: structured for programs, brief text for models, images as images."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any, get_args

import mcp_types as types

from sandbox_server.execution.caps import Caps
from sandbox_server.execution.installs import told
from sandbox_server.execution.leftovers import image_type
from sandbox_server.execution.models import (
    Artifact,
    Captured,
    Display,
    Outcome,
    Packages,
    RunRequest,
    RunResult,
)
from sandbox_server.protocol.resources import guess_type
from sandbox_server.protocol.text import visible

HOW_TO_PAGE = "resources/read of uri?offset=0&limit=32768, or uri?grep=TEXT for lines with this text"


def _or_null(kind: str) -> dict[str, Any]:
    # Not a list of types: clients that map schemas to dialects with a single `type` drop those.
    return {"anyOf": [{"type": kind}, {"type": "null"}]}


OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "outcome": {"enum": list(get_args(Outcome))},
        "exit_code": _or_null("integer"),
        "signal": _or_null("string"),
        "limit": _or_null("string"),
        "stdout": {"type": "string"},
        "stderr": {"type": "string"},
        "result": _or_null("string"),
        "display": {"type": "array", "description": "`content`: index of an image block."},
        "artifacts": {"type": "array", "description": "Files made or changed; `uri` is a resource."},
        "truncated": {"type": "object", "description": "What was cut, and the `uri` that has it."},
        "usage": {"type": "object"},
        "timings": {"type": "object"},
        "session": {"type": "object"},
        "isolation": {"type": "object"},
        "packages": _or_null("object"),
    },
}
"""Top-level properties only: every model pays for this in every conversation. Nothing is required, for
some clients hold error results against it too."""


def to_tool_result(result: RunResult, *, request: RunRequest, caps: Caps) -> types.CallToolResult:
    """Never an error result: a failing program is a call that worked."""
    images: list[types.ContentBlock] = []
    displays = [_display(display, images) for display in result.displays]
    artifacts = _artifacts(result, images)
    links = [_link(artifact) for artifact in result.artifacts if artifact.uri]
    text = types.TextContent(text=_text(result, request=request, caps=caps))
    return types.CallToolResult(
        content=[text, *images, *links],
        structured_content=_structured(result, displays, artifacts),
        is_error=False,
    )


def _structured(
    result: RunResult, displays: list[dict[str, Any]], artifacts: list[dict[str, Any]]
) -> dict[str, Any]:
    usage, timings, session = result.usage, result.timings, result.session
    return {
        "outcome": result.outcome,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "limit": result.limit,
        "stdout": visible(result.stdout.text),
        "stderr": visible(result.stderr.text),
        "result": None if result.value is None else visible(result.value),
        "display": displays,
        "artifacts": artifacts,
        "truncated": _truncated(result),
        "usage": {
            "wall_seconds": _seconds(usage.wall),
            "cpu_seconds": None if usage.cpu is None else _seconds(usage.cpu),
            "peak_memory_bytes": usage.peak_memory,
            "memory_limit_shared": result.limit_shared,
        },
        "timings": {
            "queue_seconds": _seconds(timings.queue),
            "acquire_seconds": _seconds(timings.acquire),
            "run_seconds": _seconds(timings.run),
            "total_seconds": _seconds(timings.total),
            "warm": timings.warm,
            "reused": timings.reused,
        },
        "session": {
            "id": session.id,
            "state": session.state,
            "expires_in_seconds": session.expires_in,
            "note": visible(session.note),
        },
        "isolation": asdict(result.isolation),
        "packages": _packages(result.packages),
    }


def _packages(packages: Packages | None) -> dict[str, Any] | None:
    if packages is None:
        return None
    return {
        "installed": [{"name": name, "version": version} for name, version in packages.installed],
        "complete": packages.complete,
        "seconds": _seconds(packages.seconds),
        "from_store": packages.cached,
    }


def _display(display: Display, images: list[types.ContentBlock]) -> dict[str, Any]:
    """Images go into `images` (block 0 is the text); anything else is text, inline."""
    facts: dict[str, Any] = {"mime": display.mime, "bytes": len(display.data)}
    if display.mime.startswith("image/"):
        data = base64.b64encode(display.data).decode("ascii")
        images.append(types.ImageContent(data=data, mime_type=display.mime))
        facts["content"] = len(images)
    else:
        facts["text"] = visible(display.data.decode("utf-8", "replace"))
    return facts


def _artifacts(result: RunResult, images: list[types.ContentBlock]) -> list[dict[str, Any]]:
    """A figure that was saved is mostly one that was displayed too: images are shown once."""
    show = not any(display.mime.startswith("image/") for display in result.displays)
    listed = []
    for artifact in result.artifacts:
        facts: dict[str, Any] = {"path": visible(artifact.path), "size": artifact.size}
        if artifact.uri:
            facts["uri"] = artifact.uri
        mime_type = image_type(artifact.image) if artifact.image and show else None
        if artifact.image and mime_type:
            data = base64.b64encode(artifact.image).decode("ascii")
            images.append(types.ImageContent(data=data, mime_type=mime_type))
            facts["content"] = len(images)
        listed.append(facts)
    return listed


def _link(artifact: Artifact) -> types.ResourceLink:
    return types.ResourceLink(
        uri=artifact.uri or "",
        name=visible(artifact.path),
        mime_type=guess_type(artifact.path),
        size=artifact.size,
    )


def _truncated(result: RunResult) -> dict[str, Any]:
    cut: dict[str, Any] = {
        name: _cut_facts(stream)
        for name, stream in (("stdout", result.stdout), ("stderr", result.stderr))
        if stream.omitted_bytes
    }
    if result.artifacts_omitted or not result.artifacts_complete:
        cut["artifacts"] = {"omitted": result.artifacts_omitted, "complete": result.artifacts_complete}
    if result.displays_omitted:
        cut["display"] = {"omitted": result.displays_omitted}
    return cut


def _cut_facts(stream: Captured) -> dict[str, Any]:
    facts: dict[str, Any] = {"total_bytes": stream.total_bytes, "omitted_bytes": stream.omitted_bytes}
    if stream.uri:
        facts |= {"uri": stream.uri, "kept_bytes": stream.kept_bytes, "how": HOW_TO_PAGE}
    return facts


def _text(result: RunResult, *, request: RunRequest, caps: Caps) -> str:
    """Ours first, the program's last: nothing that a program prints can pass for a word of ours."""
    head = [_headline(result, request, caps)]
    if result.packages:
        head.append(_packages_line(result.packages))
    if result.session.state in ("reset", "lost"):
        head.append(f"session: {result.session.state} ({visible(result.session.note)})")
    if result.displays:
        kinds = ", ".join(display.mime for display in result.displays)
        head.append(f"display: {kinds}")
    if result.displays_omitted:
        head.append(f"{result.displays_omitted} more display outputs were over the limit and dropped.")
    head += _artifact_lines(result)
    body = _sections(result)
    if body:
        head.append("The program's output (untrusted data):")
    elif not result.displays:
        head.append("No output.")
    return "\n".join(head + body)


def _artifact_lines(result: RunResult) -> list[str]:
    lines = []
    if result.artifacts:
        count = len(result.artifacts) + result.artifacts_omitted
        lines.append(f"files made or changed: {count}, see artifacts")
    if not result.artifacts_complete:
        lines.append("The workspace was too large to look through: other files may have changed too.")
    return lines


def _packages_line(packages: Packages) -> str:
    if packages.complete:
        return visible(told(packages))
    return "packages: they were not installed, so the code was not run; stderr is the package manager's."


def _headline(result: RunResult, request: RunRequest, caps: Caps) -> str:
    ending = f"signal {result.signal}" if result.signal else f"exit code {result.exit_code}"
    line = f"outcome: {result.outcome} ({ending}, {result.usage.wall:.2f} s)"
    match result.outcome:
        case "compile_error":
            return f"{line}. It did not compile and was not run: stderr says why."
        case "packages_failed":
            return f"{line}. The packages could not be installed."
        case "timeout":
            which = "CPU" if result.limit == "cpu" else "wall"
            allowed = f"{request.limits.wall:g} s (at most {caps.max_wall:g} s)"
            return f"{line}. Stopped at the {which} limit of {allowed}."
        case "out_of_memory":
            whose = ", by it or by what a background process has started" if result.limit_shared else ""
            return f"{line}. The sandbox's memory limit was reached{whose}: work in smaller parts."
        case "output_limit":
            return f"{line}. It printed too much and was stopped: print less or write to a file."
        case "disk_full":
            return f"{line}. The sandbox's disk is full: delete files or write less."
        case _:
            return line


def _sections(result: RunResult) -> list[str]:
    sections = []
    for name, stream in (("stdout", result.stdout), ("stderr", result.stderr)):
        if stream.total_bytes:
            sections.append(f"--- {name}{_cut(stream)}\n{visible(stream.text)}".rstrip("\n"))
    if result.value is not None:
        sections.append(f"--- result\n{visible(result.value)}")
    return sections


def _cut(stream: Captured) -> str:
    if not stream.omitted_bytes:
        return ""
    whole = stream.kept_bytes == stream.total_bytes
    kept = "all of it" if whole else f"the first {stream.kept_bytes:,} bytes"
    rest = f"; {kept}: {stream.uri}?offset=0, or ?grep=TEXT" if stream.uri else ""
    return f" ({stream.omitted_bytes:,} of {stream.total_bytes:,} bytes were cut{rest})"


def _seconds(value: float) -> float:
    return round(value, 6)
