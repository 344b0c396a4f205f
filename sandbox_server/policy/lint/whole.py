"""What holds for the policy as a whole: enforcement, limits, the log, tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sandbox_server.execution.grants import Grant
from sandbox_server.policy.document import Path
from sandbox_server.policy.limits import RoleSet
from sandbox_server.policy.lint.findings import Finding
from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.file import PolicyFile


def check(file: PolicyFile) -> Iterator[Finding]:
    if file.enforcement == "observe":
        yield Finding(
            "observe-on",
            "warning",
            ("enforcement",),
            "nothing is refused: the policy only observes",
            "write enforcement: enforce once the log holds no would_deny that matters",
        )
    yield from _log(file)
    yield from _warm(file)
    if not file.tests:
        yield Finding(
            "no-tests",
            "warning",
            (),
            "no tests: nothing shows that this policy means what it should",
            "write policy.test.yaml beside it and name it under tests",
        )
    for name, role in file.roles.items():
        if role.code is None:
            continue
        path: Path = ("roles", name, "code")
        if "*" in role.code.packages:
            index = role.code.packages.index("*")
            what = "any package of the index may be installed"
            yield Finding("too-broad", "note", (*path, "packages", index), what, "name those that are needed")


def _log(file: PolicyFile) -> Iterator[Finding]:
    if file.audit.log != "all":
        what = "nothing is recorded" if file.audit.log == "none" else "what is allowed is not recorded"
        yield Finding("audit-off", "warning", ("audit", "log"), what, "write log: all")
    if file.audit.on_failure == "continue":
        what = "calls go on when they can't be recorded"
        yield Finding("audit-off", "warning", ("audit", "on_failure"), what, "write on_failure: stop")


def _warm(file: PolicyFile) -> Iterator[Finding]:
    """One role for everybody does not load like this. Of several, what the first principals have is warm."""
    if not file.principals or not file.deployment.warm:
        return
    granting = [RoleSet(file, closure(file, rule.roles), "") for rule in file.principals]
    kinds = {language.grant.profile for each in granting for language in each.languages().values()}
    most = max(1, file.deployment.sandboxes // 2 // file.deployment.warm)
    if len(kinds) > most:
        yield Finding(
            "cold-roles",
            "note",
            ("deployment", "sandboxes"),
            f"principals have {len(kinds)} kinds of sandboxes, of which {most} wait warm (half of all places "
            "are for those): calls for the others wait for a start",
            "raise it, lower deployment.warm, or give roles the same limits: then they share what waits",
        )


def check_images(grants: Mapping[str, Grant], there: frozenset[str]) -> Iterator[Finding]:
    """`there`: the images that the engine has."""
    for language, grant in grants.items():
        if grant.profile.image not in there:
            yield Finding(
                "missing-image",
                "error",
                ("roles",),
                f"the image {grant.profile.image} of {language} is not on the engine",
                f"sandbox-server images build {grant.profile.image}",
            )
