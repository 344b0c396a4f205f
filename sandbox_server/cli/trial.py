"""The doctor's own patient: a real sandbox that reports what holds it, and one that must be stopped."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any, Final

from sandbox_server.app import Stack
from sandbox_server.cli.checks import Check, failed
from sandbox_server.cli.samples import ENDLESS, LOOK_AROUND, MARK, WORDS
from sandbox_server.errors import SandboxServerError
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import RunRequest, RunResult

_LIMIT: Final = 1.0
_OVERSHOOT: Final = 0.1


async def try_sandboxes(stack: Stack) -> list[Check]:
    """Run each grant once, look at the walls from inside, and stop an endless loop."""
    granted = stack.policy.grants
    checks = [await _try(stack, name) for name in granted]
    endless = next((name for name, grant in granted.items() if grant.language.name in ENDLESS), None)
    if endless is not None:
        checks.append(await _try_timeout(stack, endless))
    return checks


async def _try(stack: Stack, granted: str) -> Check:
    """`granted` is a name among the policy's grants: a language, or one of its variants."""
    grant, name = stack.policy.grants[granted], f"sandbox {granted}"
    python = grant.language.name == "python"
    begun = time.monotonic()
    try:
        result = await _run(stack, granted, LOOK_AROUND if python else WORDS[grant.language.name])
    except SandboxServerError as error:
        return failed(name, error)
    took = f"{(time.monotonic() - begun) * 1000:.0f} ms, {'warm' if result.timings.warm else 'cold'}"
    if result.outcome != "ok":
        tail = result.stderr.text.strip()[-200:]
        return Check(name, "fail", f"a one-line program ended with {result.outcome}: {tail}", _REBUILD)
    if not python:
        right = result.stdout.text.strip() == MARK
        return Check(name, "ok", took) if right else Check(name, "fail", "its output was lost", _REBUILD)
    holes = _holes(_decoded(result), runsc=grant.profile.runtime == "runsc")
    if holes:
        return Check(
            name, "fail", "; ".join(holes), "do not serve from this engine; file a bug with this output"
        )
    return Check(name, "ok", f"{took}; no root, no capabilities, seccomp on, no network, read-only root")


_REBUILD: Final = "run: sandbox-server images build --fresh; then --debug run for the details"


def _decoded(result: RunResult) -> dict[str, Any]:
    try:
        found = json.loads(result.stdout.text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _holes(seen: dict[str, Any], *, runsc: bool) -> list[str]:
    """What of the promised walls is missing, as seen from inside. gVisor filters its own
    system calls on the host and shows no seccomp to the program."""
    promised: list[tuple[str, bool]] = [
        ("runs as root", seen.get("uid") not in (0, None)),
        ("has capabilities", seen.get("caps") == 0),
        ("can gain privileges", seen.get("no_new_privs") == "1"),
        ("no seccomp filter", seen.get("seccomp") == "2" or runsc),
        ("has a network", seen.get("links") == ["lo"]),
        ("can write to the root file system", seen.get("writable") is False),
    ]
    return [what for what, holds in promised if not holds]


async def _try_timeout(stack: Stack, granted: str) -> Check:
    program = ENDLESS[stack.policy.grants[granted].language.name]
    try:
        result = await _run(stack, granted, program, wall=_LIMIT)
    except SandboxServerError as error:
        return failed("timeout", error)
    over = result.timings.run - _LIMIT
    if result.outcome != "timeout":
        return Check("timeout", "fail", f"an endless loop ended with {result.outcome}", "file a bug")
    evidence = f"an endless loop was stopped {over * 1000:.0f} ms after its {_LIMIT:g} s"
    if over > _OVERSHOOT:
        return Check("timeout", "warn", evidence, "the machine is overloaded: lower deployment.sandboxes")
    return Check("timeout", "ok", evidence)


async def _run(stack: Stack, granted: str, code: str, *, wall: float | None = None) -> RunResult:
    limits = stack.policy.grants[granted].defaults
    request = RunRequest(language=granted, code=code, limits=replace(limits, wall=wall or limits.wall))
    return await stack.manager.run(request, caller=Caller(), on_event=lambda _: None)
