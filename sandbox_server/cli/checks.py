"""What the doctor looks at: each check says what it found and, if that is wrong, what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sandbox_server.engines.base import Engine, EngineInfo
from sandbox_server.errors import EngineUnavailable, SandboxServerError
from sandbox_server.images.inventory import ImageStatus
from sandbox_server.policy.models import Policy
from sandbox_server.policy.units import quantity_text

Grade = Literal["ok", "warn", "fail"]

GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Check:
    """`warn`: it works, and could be better. `fail`: calls will fail, or limits will not hold."""

    name: str
    grade: Grade
    evidence: str
    fix: str = ""


def failed(name: str, error: SandboxServerError) -> Check:
    return Check(name, "fail", error.message, error.hint)


def policy_check(policy: Policy) -> Check:
    languages = ", ".join(dict.fromkeys(grant.language.name for grant in policy.every_grant))
    roles = f" in {len(policy.file.roles)} roles" if len(policy.file.roles) > 1 else ""
    return Check(
        "policy", "ok", f"{policy.source}: grants {languages}{roles}; revision {policy.revision[:19]}"
    )


def engine_checks(info: EngineInfo, policy: Policy, allowed: frozenset[str]) -> Iterator[Check]:
    facts = info.facts
    host = f"{facts.get('operating_system', '?')}, kernel {facts.get('kernel', '?')}"
    yield Check("engine", "ok", f"{info.name} {info.version} on {host}")
    yield Check(
        "cgroups", "ok", f"v{facts.get('cgroup_version', '?')}, driver {facts.get('cgroup_driver', '?')}"
    )
    yield _limits(info, allowed)
    yield _runc(facts.get("runc_version", ""))
    yield _runtimes(info, policy)
    yield _layers(facts.get("security_options", ""))
    yield from _budget(facts, policy)


async def profile_checks(engine: Engine, policy: Policy) -> list[Check]:
    """Whether the engine can make each sandbox that the policy grants."""
    checks = []
    for name, grant in policy.variants().items():
        try:
            await engine.check(grant.profile)
        except EngineUnavailable:
            raise
        except SandboxServerError as error:
            checks.append(failed(f"profile {name}", error))
        else:
            limits = grant.profile.limits
            evidence = (
                f"{grant.profile.runtime}, memory {quantity_text('memory', limits.memory)}, "
                f"{limits.cpus:g} cpus, {limits.pids} pids can be applied"
            )
            checks.append(Check(f"profile {name}", "ok", evidence))
    return checks


def image_check(found: list[ImageStatus], policy: Policy) -> Check:
    used = {grant.profile.image for grant in policy.every_grant}
    wrong = [
        f"{image.name} is {image.state}" for image in found if image.name in used and image.state != "present"
    ]
    if wrong:
        names = [image.name for image in found if image.name in used and image.state != "present"]
        fix = f"run: sandbox-server images build {' '.join(names)}"
        return Check("images", "fail", ", ".join(wrong), fix)
    total = sum(image.size or 0 for image in found if image.name in used)
    return Check("images", "ok", f"{', '.join(sorted(used))} are up to date, {total // 1024**2} MiB")


def disk_check(path: Path) -> Check:
    """Sandboxes write to memory only; the engine needs its disk for images and its own state."""
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    evidence = f"{free / GIB:.1f} GiB free at {path}"
    if free < GIB:
        return Check("disk", "fail", evidence, "free some: docker image prune, sandbox-server images prune")
    if free < 5 * GIB:
        return Check("disk", "warn", evidence, "images need up to 5 GiB while they are built")
    return Check("disk", "ok", evidence)


def _limits(info: EngineInfo, allowed: frozenset[str]) -> Check:
    if not info.missing:
        return Check("limits", "ok", "memory, swap, cpu, pids and seccomp can be applied")
    evidence = "; ".join(f"{limit}: {reason}" for limit, reason in sorted(info.missing.items()))
    if info.missing.keys() <= allowed:
        return Check("limits", "warn", evidence, "you chose to run without; programs can exceed these limits")
    return Check(
        "limits", "fail", evidence, "enable them on the host; at your own risk: --insecure-allow-missing=NAME"
    )


# Fixed in, per release line, with the newest line last. From runc's change log.
_RUNC_FIXES: Final = (
    ("CVE-2024-21626 (working directory leaks a host descriptor)", ((1, 1, 12),)),
    ("CVE-2025-31133, 52565, 52881 (masked paths, console, LSM labels)", ((1, 2, 8), (1, 3, 3), (1, 4, 0))),
)


def _runc(version: str) -> Check:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if not found:
        return Check("runc", "warn", f"version unknown ({version or 'not told by the engine'})")
    number = (int(found[1]), int(found[2]), int(found[3]))
    open_ = [name for name, fixes in _RUNC_FIXES if not _has_fix(number, fixes)]
    if not open_:
        return Check("runc", "ok", version)
    return Check(
        "runc",
        "warn",
        f"{version} is older than the fix of {'; '.join(open_)}",
        "update runc, or see whether your distribution has backported them; "
        "they need a hostile image or mounts, which sandboxes here never have",
    )


def _has_fix(version: tuple[int, int, int], fixes: tuple[tuple[int, int, int], ...]) -> bool:
    same_line = [fix for fix in fixes if fix[:2] == version[:2]]
    return version >= (same_line[0] if same_line else fixes[-1])


def _runtimes(info: EngineInfo, policy: Policy) -> Check:
    wanted = {grant.profile.runtime for grant in policy.every_grant}
    if missing := wanted - info.runtimes:
        return Check(
            "runtimes",
            "fail",
            f"the policy asks for {', '.join(sorted(missing))}, which the engine does not have",
            "install it and add it to the engine's daemon.json, or choose runtime: runc",
        )
    gvisor = "runsc (gVisor) is available" if "runsc" in info.runtimes else "runsc (gVisor) is not installed"
    return Check("runtimes", "ok", f"{', '.join(sorted(wanted))} in use; {gvisor}")


def _layers(options: str) -> Check:
    absent = [
        name
        for name, sign in (
            ("AppArmor or SELinux", r"apparmor|selinux"),
            ("user namespaces", r"userns|rootless"),
        )
        if not re.search(sign, options)
    ]
    if not absent:
        return Check("second layers", "ok", options)
    return Check(
        "second layers",
        "warn",
        f"the engine has no {' and no '.join(absent)}",
        "optional: runtime: runsc in the policy, userns-remap in daemon.json, or a kernel with an LSM",
    )


def _budget(facts: dict[str, str], policy: Policy) -> Iterator[Check]:
    memory, promised = int(facts.get("memory_bytes") or 0), policy.sizing.memory
    evidence = f"{promised / GIB:.1f} GiB may be promised to sandboxes, the host has {memory / GIB:.1f} GiB"
    if promised > memory:
        yield Check("memory", "fail", evidence, "lower deployment.memory in the policy")
    elif promised > 0.8 * memory:
        yield Check("memory", "warn", evidence, "leave a fifth to the host: lower deployment.memory")
    else:
        yield Check("memory", "ok", evidence)
