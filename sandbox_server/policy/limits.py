"""From what a policy says to what each language gets: inheritance, ceilings, and what must fit
into what. Pure: no file, no engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final

from sandbox_server.engines.profile import Profile, SandboxLimits
from sandbox_server.execution.grants import Grant, Sizing
from sandbox_server.execution.languages import LANGUAGES
from sandbox_server.execution.models import RunLimits
from sandbox_server.policy.document import Path
from sandbox_server.policy.models import Ceilings, Code, Deployment, LanguageRule
from sandbox_server.policy.units import Share, quantity_text

_SANDBOX: Final = frozenset(field.name for field in fields(SandboxLimits))
_RUN: Final = frozenset({"wall", "cpu", "output", "output_total"})


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the value at `path`."""

    path: Path
    what: str


def grants_of(
    ceilings: Ceilings, code: Code, at: Path, revision: str, problems: list[Problem]
) -> MappingProxyType[str, Grant]:
    """Every language that `code` names. Whatever is wrong is added to `problems`."""
    if not code.languages:
        problems.append(Problem((*at, "languages"), "names no language, so nothing could ever run"))
    granted: dict[str, Grant] = {}
    for name, rule in code.languages.items():
        where = (*at, "languages", name)
        if name not in LANGUAGES:
            problems.append(Problem(where, _unknown_language(name)))
            continue
        granted[name] = _grant(name, rule, ceilings, code, at, revision, problems)
    return MappingProxyType(_with_shared_sandboxes(granted))


def _with_shared_sandboxes(granted: dict[str, Grant]) -> dict[str, Grant]:
    """Languages with the same image, limits and runtime have the same profile, and so share a
    session's sandbox and files: what one of them imports ahead is there for all."""
    preloads = {_same(grant): grant.profile.preload for grant in granted.values() if grant.profile.preload}
    return {
        name: replace(
            grant, profile=replace(grant.profile, preload=preloads.get(_same(grant), grant.profile.preload))
        )
        for name, grant in granted.items()
    }


def _same(grant: Grant) -> Profile:
    return replace(grant.profile, preload=())


def _grant(
    name: str, rule: LanguageRule, ceilings: Ceilings, code: Code, at: Path, revision: str,
    problems: list[Problem],
) -> Grant:  # fmt: skip
    where = (*at, "languages", name)
    limits = _Merged(rule, code, ceilings, at, where)
    problems.extend(limits.over_ceilings())
    if rule.preload and LANGUAGES[name].mode != "fork":
        problems.append(Problem((*where, "preload"), "only python imports modules ahead"))
    sandbox = limits.sandbox()
    tmpfs = sandbox.workspace + sandbox.tmp + sandbox.shm
    if tmpfs >= sandbox.memory:
        problems.append(
            Problem(
                limits.place("memory"),
                f"workspace, tmp and shm of {name} are {_size(tmpfs)} together and count as memory, "
                f"which is {_size(sandbox.memory)}: make memory larger or them smaller",
            )
        )
    image = rule.image or LANGUAGES[name].image
    profile = Profile(image, sandbox, code.runtime, rule.preload, revision)
    defaults = limits.run()
    ceiling = RunLimits(
        wall=ceilings.wall, cpu=ceilings.cpu, output=ceilings.output, output_total=defaults.output_total
    )
    widest = replace(
        sandbox,
        memory=ceilings.memory,
        pids=ceilings.pids,
        workspace=ceilings.workspace,
        cpus=sandbox.cpus if ceilings.cpus is None else ceilings.cpus,
    )
    return Grant(LANGUAGES[name], profile, defaults, ceiling, widest)


class _Merged:
    """One language's limits: its own, else the role's defaults, else the built-in ones."""

    def __init__(self, rule: LanguageRule, code: Code, ceilings: Ceilings, at: Path, where: Path) -> None:
        self._ceilings: dict[str, Any] = ceilings.model_dump(exclude_none=True)
        self._places: dict[str, Path] = {}
        self._written: dict[str, Any] = {}
        self._where = where
        for base, model in (((*at, "defaults"), code.defaults), (where, rule)):
            for key, value in model.model_dump(exclude_none=True, exclude={"image", "preload"}).items():
                self._written[key] = value
                self._places[key] = (*base, key)

    def place(self, key: str) -> Path:
        return self._places.get(key, self._where)

    def over_ceilings(self) -> Iterable[Problem]:
        for key, most in self._ceilings.items():
            if key in self._written and self._written[key] > most:
                shown = quantity_text(key, self._written[key])
                what = f"{shown} is above ceilings.{key}, which is {quantity_text(key, most)}"
                yield Problem(self._places[key], what)

    def sandbox(self) -> SandboxLimits:
        chosen = {key: value for key, value in self._chosen(SandboxLimits()).items() if key in _SANDBOX}
        # A file may fill the workspace unless the policy says less: two numbers to keep in step otherwise.
        chosen["file_size"] = self._written.get("file_size", chosen["workspace"])
        return SandboxLimits(**chosen)

    def run(self) -> RunLimits:
        return RunLimits(**{key: value for key, value in self._chosen(RunLimits()).items() if key in _RUN})

    def _chosen(self, built_in: SandboxLimits | RunLimits) -> dict[str, Any]:
        """Built-in values give way to a lower ceiling; written ones were checked against it."""
        chosen = {field.name: getattr(built_in, field.name) for field in fields(built_in)}
        for key, most in self._ceilings.items():
            if key in chosen:
                chosen[key] = min(chosen[key], most)
        return chosen | {key: value for key, value in self._written.items() if key in chosen}


def unfit(granted: Iterable[Grant], deployment: Deployment, sizing: Sizing) -> Iterable[Problem]:
    """What of the grants a deployment has no room for."""
    profiles = {grant.profile for grant in granted}
    warm = sizing.warm * len(profiles)
    if warm > sizing.sandboxes:
        yield Problem(
            ("deployment", "sandboxes"),
            f"{warm} sandboxes would wait warm ({sizing.warm} for each of {len(profiles)} profiles) "
            f"but only {sizing.sandboxes} may exist",
        )
    # A share is written for hosts of any size: on a small one fewer wait warm.
    shared = isinstance(deployment.memory, Share)
    needed = 0 if shared else sizing.warm * sum(profile.limits.memory for profile in profiles)
    largest = max((profile.limits.memory for profile in profiles), default=0)
    if max(needed, largest) > sizing.memory:
        yield Problem(
            ("deployment", "memory"),
            f"{_size(sizing.memory)} is less than what has to fit: {_size(largest)} for the largest sandbox"
            + (f", {_size(needed)} for the warm ones" if needed else ""),
        )


def _unknown_language(name: str) -> str:
    near = get_close_matches(name[:80], LANGUAGES, n=1, cutoff=0.5)
    by_alias = [language.name for language in LANGUAGES.values() if name in language.aliases]
    guess = (by_alias or near or [""])[0]
    return f"unknown language, {f'did you mean {guess!r}?' if guess else 'known are ' + ', '.join(LANGUAGES)}"


def _size(value: int) -> str:
    return quantity_text("memory", value)
