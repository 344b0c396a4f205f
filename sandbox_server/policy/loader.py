"""A policy file to a `Policy`. Everything that is wrong with it is said at once, each as
`file:line:column: path: what is wrong`, and nothing of a wrong file is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Final

from pydantic import ValidationError

from sandbox_server.errors import ConfigError
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.guards.hosts import HostPattern
from sandbox_server.policy.compiled import Compiled
from sandbox_server.policy.decision import Principal
from sandbox_server.policy.document import MAX_BYTES, Document, Malformed, Mark
from sandbox_server.policy.effective import Aliases
from sandbox_server.policy.limits import Problem, RoleSet, unfit
from sandbox_server.policy.meaning import circles, problems_of, secrets_of
from sandbox_server.policy.models import Policy
from sandbox_server.policy.refusals import Found, dotted, explained, refusal
from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.egress import EgressAllow, EgressDeny
from sandbox_server.policy.schema.file import PolicyFile
from sandbox_server.policy.sources import Reader, Sources
from sandbox_server.shipped import shipped

__all__ = ["HOST_MEMORY", "AliasResolver", "dotted", "load_policy", "parse_policy"]

HOST_MEMORY: Final = 8 * 1024**3
"""What a share of the host's memory is taken of where no host is in sight."""

AliasResolver = Callable[[str], Iterable[str]]
"""The `host:port`s that `@python-index` stands for here. Raises ValueError."""


def load_policy(
    file: FilePath, *, host_memory: int = HOST_MEMORY, aliases: AliasResolver | None = None
) -> Policy:
    """`host_memory`: the bytes that `deployment.memory: 60%` is a part of. Without `aliases`, rules for
    aliases match nothing.

    Raises ConfigError: unreadable, not strict YAML, unknown key, wrong unit, over a ceiling.
    """
    document = read_document(file)
    return policy_of(document, source=str(file), host_memory=host_memory, aliases=aliases)


def parse_policy(
    raw: bytes,
    *,
    source: str,
    host_memory: int = HOST_MEMORY,
    aliases: AliasResolver | None = None,
    siblings: Reader | None = None,
) -> Policy:
    """As `load_policy`, of bytes. `source` is what errors call it, `siblings` reads what it includes."""
    document = gather(raw, source=source, siblings=siblings)
    return policy_of(document, source=source, host_memory=host_memory, aliases=aliases)


def read_document(file: FilePath) -> Document:
    """The file with all that it extends and includes, and where each value stands. Raises ConfigError."""
    try:
        raw = _read(file)
    except OSError as error:
        raise ConfigError(
            f"policy {file}: {error.strerror or error}", hint="give a readable file with --policy"
        ) from None
    return gather(raw, source=str(file), siblings=lambda name: _read(file.parent / name))


def gather(raw: bytes, *, source: str, siblings: Reader | None = None) -> Document:
    """As `read_document`, of bytes."""
    presets = shipped("policies")
    known = [each.name.removesuffix(".yaml") for each in presets.glob("*.yaml") if ".test." not in each.name]
    try:
        document = Sources(siblings, lambda name: _read(presets / f"{name}.yaml"), known).gather(raw, "")
    except Malformed as error:
        raise refusal(source, [Found(error.mark, error.path, error.what)]) from None
    if not isinstance(document.data, dict):
        raise refusal(source, [Found(Mark(1, 1), (), "expected a mapping that starts with schema:")])
    return document


def policy_of(
    document: Document,
    *,
    source: str,
    host_memory: int = HOST_MEMORY,
    aliases: AliasResolver | None = None,
) -> Policy:
    """What a document means. Raises ConfigError with every place that is wrong."""
    try:
        written = PolicyFile.model_validate(document.data)
    except ValidationError as error:
        raise refusal(source, explained(error.errors(), document)) from None
    return _resolved(written, document, source, host_memory, aliases)


def _read(file: FilePath) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _resolved(
    file: PolicyFile, document: Document, source: str, host_memory: int, aliases: AliasResolver | None
) -> Policy:
    problems = list(circles(file)) or list(problems_of(file))
    resolved, unresolved = _aliases(file, aliases, problems)
    _refuse(source, document, problems)
    revision = _revision(file, resolved)
    every = _every_grant(file, revision, problems)
    sizing = file.deployment.sizing(host_memory)
    problems.extend(unfit(every, file.deployment, sizing, warm=file.principals is None))
    _refuse(source, document, problems)
    compiled = Compiled(file, revision, resolved)
    anybody = compiled.effective(compiled.membership(Principal()).roles)
    grants = {name: language.grant for name, language in anybody.languages.items()}
    role = next(iter(file.roles)) if file.principals is None else ""
    return Policy(
        source, revision, role, grants, sizing, file, every, secrets_of(file), unresolved, compiled=compiled
    )


def _refuse(source: str, document: Document, problems: list[Problem]) -> None:
    if problems:
        raise refusal(source, [Found(document.mark(p.path), p.path, p.what) for p in problems])


def _every_grant(file: PolicyFile, revision: str, problems: list[Problem]) -> tuple[Grant, ...]:
    found: dict[Grant, None] = {}
    for name in file.roles:
        roles = RoleSet(file, closure(file, (name,)), revision)
        found.update(dict.fromkeys(language.grant for language in roles.languages().values()))
        problems.extend(problem for problem in roles.problems if problem not in problems)
    return tuple(found)


def _aliases(
    file: PolicyFile, resolve: AliasResolver | None, problems: list[Problem]
) -> tuple[Aliases, tuple[str, ...]]:
    """What each alias stands for, and those that nothing resolves."""
    resolved: dict[str, tuple[str, ...]] = {}
    unresolved: dict[str, None] = {}
    for name, profile in file.egress.profiles.items():
        written: list[tuple[str, Sequence[EgressAllow | EgressDeny]]]
        written = [("allow", profile.allow), ("deny", profile.deny)]
        for kind, rules in written:
            for index, rule in enumerate(rules):
                for host in (host for host in rule.hosts if host.startswith("@")):
                    if resolve is None:
                        unresolved[host] = None
                        continue
                    try:
                        resolved[host] = tuple(resolve(host))
                        for each in resolved[host]:
                            HostPattern.parse(each)
                    except ValueError as error:
                        at = ("egress", "profiles", name, kind, index, "hosts")
                        problems.append(Problem(at, f"{host}: {error}"))
    return resolved, tuple(unresolved)


def _revision(file: PolicyFile, aliases: Aliases) -> str:
    content = {
        "file": file.model_dump(mode="json", by_alias=True),
        "built_in": asdict(Sizing()),
        "aliases": dict(aliases),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
