"""What each language gets: the most permissive of what the granting roles say, ceilings, built-in values, and
what must fit into what. Pure: no file, no engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from sandbox_server.engines.profile import Profile, Runtime, SandboxLimits, Seccomp
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.models import RunLimits
from sandbox_server.policy.decision import Limit
from sandbox_server.policy.document import Path
from sandbox_server.policy.grants import LanguageGrant
from sandbox_server.policy.roles import closure
from sandbox_server.policy.schema.code import Ceilings, Code, Deployment, LanguageRule, Limits
from sandbox_server.policy.schema.file import PolicyFile
from sandbox_server.policy.units import Share, quantity_text, size_text

_SANDBOX: Final = tuple(field.name for field in fields(SandboxLimits))
_RUN: Final = ("wall", "cpu", "output", "output_total")
_LIMITS: Final = tuple(Limits.model_fields)
_CEILINGS: Final = ("wall", "cpu", "memory", "pids", "output", "workspace", "cpus")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the value at `path`."""

    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class _Said:
    """A number as a role says it, and where."""

    value: float
    place: Path


def above_ceilings(file: PolicyFile) -> Iterator[Problem]:
    """Every number that is written above its ceiling."""
    for name, role in file.roles.items():
        if role.code is not None:
            at: Path = ("roles", name, "code")
            yield from _above(file.ceilings, role.code.defaults, (*at, "defaults"))
            for language, rule in role.code.languages.items():
                yield from _above(file.ceilings, rule, (*at, "languages", language))
        most, wanted = file.ceilings.concurrent, role.quotas.concurrent
        if most is not None and wanted is not None and wanted > most:
            what = f"{wanted} is above ceilings.concurrent, which is {most}"
            yield Problem(("roles", name, "quotas", "concurrent"), what)


def _above(ceilings: Ceilings, limits: Limits, at: Path) -> Iterator[Problem]:
    for key in _CEILINGS:
        most, written = getattr(ceilings, key), getattr(limits, key)
        if most is not None and written is not None and written > most:
            shown = quantity_text(key, written)
            what = f"{shown} is above ceilings.{key}, which is {quantity_text(key, most)}"
            yield Problem((*at, key), what)


class RoleSet:
    """The languages of a set of roles. `problems` is filled while they are made."""

    def __init__(self, file: PolicyFile, roles: tuple[str, ...], revision: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._roles = roles
        self._revision = revision

    def languages(self) -> Mapping[str, LanguageGrant]:
        named: dict[str, None] = {}
        for role in self._roles:
            named.update(dict.fromkeys(_code(self._file, role).languages))
        granted: dict[str, LanguageGrant] = {}
        for name in named:
            if name in LANGUAGES:
                granted[name] = self._grant(name)
        return MappingProxyType(_with_shared_sandboxes(granted))

    def _grant(self, name: str) -> LanguageGrant:
        granting = [role for role in self._roles if self._has(role, name)]
        rules = [(role, rule) for role in granting if (rule := self._rule(role, name)) is not None]
        place: Path = ("roles", rules[0][0], "code", "languages", name)
        said = {key: found for key in _LIMITS if (found := self._most(key, name, granting)) is not None}
        limits = _chosen(self._file.ceilings, said)
        if _tmpfs(limits) >= limits["memory"].value:
            limits = self._fitting(name, granting, said, place)
        sandbox = SandboxLimits(**{key: _number(key, limits[key].value) for key in _SANDBOX})
        run = RunLimits(**{key: _number(key, limits[key].value) for key in _RUN})
        image = next((rule.image for _, rule in rules if rule.image), LANGUAGES[name].image)
        preload = tuple(dict.fromkeys(module for _, rule in rules for module in rule.preload))
        strict = any(_code(self._file, role).seccomp == "strict" for role in granting)
        seccomp: Seccomp = "strict" if strict else "default"
        profile = Profile(image, sandbox, self._runtime(granting), preload, self._revision, seccomp)
        files_out = int(said["files_out"].value) if "files_out" in said else None
        if "files_out" in said:
            limits["files_out"] = Limit(said["files_out"].value, _dotted(said["files_out"].place))
        return LanguageGrant(
            Grant(
                LANGUAGES[name],
                profile,
                run,
                *_widest(self._file.ceilings, run, sandbox),
                packages=tuple(
                    dict.fromkeys(glob for each in self._roles for glob in _code(self._file, each).packages)
                ),
                reuse=profile.runtime == "runc" and any(_code(self._file, role).reuse for role in granting),
                files_out=files_out,
            ),
            rule=".".join(str(step) for step in place),
            limits=MappingProxyType(limits),
            seccomp=seccomp,
            files_out=files_out,
        )

    def _has(self, role: str, language: str) -> bool:
        return any(self._rule(each, language) is not None for each in closure(self._file, (role,)))

    def _rule(self, role: str, language: str) -> LanguageRule | None:
        return _code(self._file, role).languages.get(language)

    def _runtime(self, granting: list[str]) -> Runtime:
        """The strictest that any of the roles asks for: isolation is not a thing to be generous with."""
        asked = {_code(self._file, role).runtime for role in granting}
        return "runsc" if "runsc" in asked else "runc"

    def _most(self, key: str, language: str, roles: list[str]) -> _Said | None:
        best: _Said | None = None
        for role in roles:
            found = self._says(role, language, key)
            if found is not None and (best is None or found.value > best.value):
                best = found
        return best

    def _says(self, role: str, language: str, key: str) -> _Said | None:
        at: Path = ("roles", role, "code")
        rule, defaults = self._rule(role, language), _code(self._file, role).defaults
        if rule is not None and (own := getattr(rule, key)) is not None:
            return _Said(own, (*at, "languages", language, key))
        if (default := getattr(defaults, key)) is not None:
            return _Said(default, (*at, "defaults", key))
        return None

    def _fitting(
        self, name: str, granting: list[str], said: Mapping[str, _Said], place: Path
    ) -> dict[str, Limit]:
        """The file systems of one role and the memory of another need not fit together: then the sandbox is
        that of the role with the most memory."""
        best: dict[str, Limit] | None = None
        for role in granting:
            line = [each for each in closure(self._file, (role,)) if each in granting]
            own = {key: found for key in _LIMITS if (found := self._most(key, name, line)) is not None}
            limits = _chosen(self._file.ceilings, own)
            fits = _tmpfs(limits) < limits["memory"].value
            if fits and (best is None or limits["memory"].value > best["memory"].value):
                best = limits
        whole = _chosen(self._file.ceilings, said)
        if best is not None:
            return {**whole, **{key: best[key] for key in _SANDBOX}}
        where = said["memory"].place if "memory" in said else place
        what = (
            f"workspace, tmp and shm of {name} are {size_text(_tmpfs(whole))} together and count as memory, "
            f"which is {size_text(int(whole['memory'].value))}: make memory larger or them smaller"
        )
        self.problems.append(Problem(where, what))
        return whole


def _code(file: PolicyFile, role: str) -> Code:
    return file.roles[role].code or Code()


def _chosen(ceilings: Ceilings, said: Mapping[str, _Said]) -> dict[str, Limit]:
    """Built-in values give way to a lower ceiling; written ones were checked against it."""
    chosen: dict[str, Limit] = {}
    for built_in, names in ((SandboxLimits(), _SANDBOX), (RunLimits(), _RUN)):
        for key in names:
            value, source = getattr(built_in, key), f"built_in.{key}"
            if key in said:
                value, source = said[key].value, _dotted(said[key].place)
            most = getattr(ceilings, key, None)
            if most is not None and value > most:
                value, source = most, f"ceilings.{key}"
            chosen[key] = Limit(value, source)
    if "file_size" not in said:
        # A file may fill the workspace unless the policy says less: two numbers to keep in step otherwise.
        chosen["file_size"] = chosen["workspace"]
    return chosen


def _widest(ceilings: Ceilings, run: RunLimits, sandbox: SandboxLimits) -> tuple[RunLimits, SandboxLimits]:
    most = RunLimits(
        wall=ceilings.wall, cpu=ceilings.cpu, output=ceilings.output, output_total=run.output_total
    )
    return most, replace(
        sandbox,
        memory=ceilings.memory,
        pids=ceilings.pids,
        workspace=ceilings.workspace,
        cpus=sandbox.cpus if ceilings.cpus is None else ceilings.cpus,
    )


def _with_shared_sandboxes(granted: dict[str, LanguageGrant]) -> dict[str, LanguageGrant]:
    """Languages with the same image, limits and runtime have the same profile, and so share a
    session's sandbox and files: what one of them imports ahead is there for all."""
    preloads = {
        _same(each): each.grant.profile.preload for each in granted.values() if each.grant.profile.preload
    }
    return {
        name: replace(each, grant=replace(each.grant, profile=_shared(each, preloads)))
        for name, each in granted.items()
    }


def _shared(each: LanguageGrant, preloads: Mapping[Profile, tuple[str, ...]]) -> Profile:
    return replace(each.grant.profile, preload=preloads.get(_same(each), each.grant.profile.preload))


def _same(each: LanguageGrant) -> Profile:
    return replace(each.grant.profile, preload=())


def _tmpfs(limits: Mapping[str, Limit]) -> int:
    return int(limits["workspace"].value + limits["tmp"].value + limits["shm"].value)


def _number(key: str, value: float) -> Any:
    return float(value) if key in ("wall", "cpu", "cpus") else int(value)


def _dotted(place: Path) -> str:
    return ".".join(str(step) for step in place)


def language_problems(file: PolicyFile) -> Iterator[Problem]:
    """Names of languages that don't exist, and what only some of them can."""
    for role, written in file.roles.items():
        if written.code is not None and written.code.reuse and written.code.runtime not in (None, "runc"):
            what = f"what runs leave in {written.code.runtime} can't be looked for: false, or runtime runc"
            yield Problem(("roles", role, "code", "reuse"), what)
        for name, rule in (written.code or Code()).languages.items():
            where: Path = ("roles", role, "code", "languages", name)
            if name not in LANGUAGES:
                yield Problem(where, _unknown_language(name))
            elif rule.preload and LANGUAGES[name].mode != "fork":
                yield Problem((*where, "preload"), "only python imports modules ahead")


def unfit(
    granted: Iterable[Grant], deployment: Deployment, sizing: Sizing, *, warm: bool = True
) -> Iterable[Problem]:
    """What of the grants a deployment has no room for. `warm`: something waits for each of them."""
    profiles = {grant.profile for grant in granted}
    waiting = sizing.warm * len(profiles) if warm else 0
    if waiting > sizing.sandboxes:
        yield Problem(
            ("deployment", "sandboxes"),
            f"{waiting} sandboxes would wait warm ({sizing.warm} for each of {len(profiles)} profiles) "
            f"but only {sizing.sandboxes} may exist",
        )
    # A share is written for hosts of any size: on a small one fewer wait warm.
    shared = isinstance(deployment.memory, Share)
    needed = 0 if shared or not warm else sizing.warm * sum(profile.limits.memory for profile in profiles)
    largest = max((profile.limits.memory for profile in profiles), default=0)
    if max(needed, largest) > sizing.memory:
        yield Problem(
            ("deployment", "memory"),
            f"{size_text(sizing.memory)} is less than what has to fit: {size_text(largest)} for the largest "
            "sandbox" + (f", {size_text(needed)} for the warm ones" if needed else ""),
        )


def _unknown_language(name: str) -> str:
    near = get_close_matches(name[:80], LANGUAGES, n=1, cutoff=0.5)
    by_alias = [language.name for language in LANGUAGES.values() if name in language.aliases]
    guess = (by_alias or near or [""])[0]
    return f"unknown language, {f'did you mean {guess!r}?' if guess else 'known are ' + ', '.join(LANGUAGES)}"
