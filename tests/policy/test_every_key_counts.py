"""No key of the schema is read and forgotten: each changes what is enforced, and somewhere it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from sandbox_server.guards.files import FileIndex
from sandbox_server.policy.compiled import Compiled
from sandbox_server.policy.hostrules import HostIndex
from sandbox_server.policy.loader import load_policy
from sandbox_server.policy.mutants import _with
from sandbox_server.policy.schema.file import PolicyFile
from tests.policy.support import ANYBODY, FIXTURES, person

PACKAGE = Path(__file__).parents[2] / "sandbox_server"
Key = tuple[str | int, ...]

READERS_ONLY = {
    "note", "id", "schema",         # for people; an id names a rule in decisions
    "extends", "include", "tests",  # say which files belong to it, see test_sources.py
}  # fmt: skip
ENFORCED: dict[str, tuple[str, str]] = {
    "enforcement": ("policy/engine.py", ".observe"),
    "ceilings": ("policy/limits.py", "_widest("),
    "ceilings.concurrent": ("policy/effective.py", "file.ceilings.concurrent"),
    "principals.match": ("policy/roles.py", "def matches("),
    "principals.roles": ("policy/roles.py", "rules[index].roles"),
    "roles.inherits": ("policy/roles.py", ".inherits"),
    "roles.tools": ("policy/engine.py", ".tools"),
    "roles.code.runtime": ("engines/docker/hostconfig.py", "profile.runtime"),
    "roles.code.reuse": ("execution/runs.py", "grant.reuse"),
    "roles.code.seccomp": ("engines/docker/engine.py", "profile.seccomp"),
    "roles.code.egress": ("access/egress/gateway.py", "profile"),
    "roles.code.packages": ("policy/judging/code.py", "granted.packages"),
    "roles.code.languages.image": ("engines/docker/engine.py", "profile.image"),
    "roles.code.languages.preload": ("execution/link.py", "profile.preload"),
    **{
        f"roles.code.{part}.{key}": place
        for part in ("defaults", "languages")
        for key, place in {
            "wall": ("execution/sandbox.py", "job.wall"),
            "cpu": ("execution/jobs.py", "job.cpu"),
            "memory": ("engines/docker/hostconfig.py", "limits.memory"),
            "cpus": ("engines/docker/hostconfig.py", "limits.cpus"),
            "pids": ("engines/docker/hostconfig.py", "limits.pids"),
            "output": ("execution/runs.py", "limits.output,"),
            "output_total": ("execution/runs.py", "limits.output_total"),
            "workspace": ("engines/docker/hostconfig.py", "limits.workspace"),
            "inodes": ("engines/docker/hostconfig.py", "limits.inodes"),
            "tmp": ("engines/docker/hostconfig.py", "limits.tmp"),
            "shm": ("engines/docker/hostconfig.py", "limits.shm"),
            "open_files": ("engines/docker/hostconfig.py", "limits.open_files"),
            "file_size": ("engines/docker/hostconfig.py", "limits.file_size"),
            "files_out": ("execution/sandbox.py", "job.files_out"),
        }.items()
    },
    "roles.files": ("policy/judging/files.py", "granted.files"),
    "roles.files.root": ("policy/judging/files.py", ".root"),
    "roles.files.max_file": ("policy/judging/files.py", "max_file"),
    "roles.web.allow": ("policy/judging/web.py", "granted.web.allow"),
    "roles.web.allow.inject": ("access/http/client.py", ".inject"),
    "roles.web.allow.addresses": ("access/http/resolver.py", "addresses"),
    "roles.web.allow.rate": ("access/http/rates.py", "rate"),
    "roles.web.allow.limits": ("policy/judging/web.py", "_limits("),
    "roles.web.deny": ("policy/judging/web.py", "granted.web.deny"),
    **{
        f"roles.web.limits.{key}": place
        for key, place in {
            "total": ("access/http/client.py", "limits.total"),
            "connect": ("access/http/wire.py", "limits.connect"),
            "first_byte": ("access/http/wire.py", "limits.first_byte"),
            "body": ("access/http/hop.py", "limits.body"),
            "decoded": ("access/http/hop.py", "limits.decoded"),
            "headers": ("access/http/wire.py", "limits.headers"),
            "redirects": ("access/http/client.py", "limits.redirects"),
            "request_body": ("policy/judging/web.py", "limits.request_body"),
            "min_rate": ("access/http/wire.py", "min_rate"),
        }.items()
    },
    "roles.databases": ("policy/judging/database.py", "_judges("),
    "roles.databases.effect": ("policy/judging/database.py", "grant.ask"),
    "roles.databases.dsn": ("access/database/granted.py", "dsn"),
    "roles.databases.operations": ("policy/judging/database.py", "grant.operations"),
    "roles.databases.ad_hoc": ("policy/judging/database.py", "grant.ad_hoc"),
    "roles.databases.max_affected": ("access/database/postgres.py", "limits.max_affected"),
    "roles.databases.limits": (
        "access/database/granted.py",
        "rows=grant.rows, bytes=grant.bytes, time=grant.time",
    ),
    "roles.databases.limits.length": ("guards/sql/judging.py", "max_length"),
    "roles.databases.limits.depth": ("guards/sql/judging.py", "max_depth"),
    "roles.databases.queries": ("policy/judging/database.py", "grant.queries"),
    "roles.databases.queries.params": ("access/database/binding.py", "def named_params("),
    **{
        f"roles.quotas.{key}": ("enforcement/quotas.py", f'"{key}"')
        for key in ("runs", "burst", "cpu_seconds", "egress_bytes", "sql", "web")
    },
    "roles.quotas.concurrent": ("enforcement/current.py", "concurrent"),
    "egress.profiles.allow": ("policy/judging/egress.py", "profiles"),
    "egress.profiles.allow.opaque": ("access/egress/protocols.py", "opaque"),
    "egress.profiles.allow.terminate": ("access/egress/protocols.py", "terminate"),
    "egress.profiles.allow.inject": ("access/egress/requests.py", "inject"),
    "egress.profiles.allow.addresses": ("access/egress/dial.py", "addresses"),
    "egress.profiles.deny": ("policy/judging/egress.py", "profiles"),
    "egress.profiles.tunnels": ("access/egress/gateway.py", ".tunnels"),
    "egress.profiles.bytes_out": ("access/egress/streams.py", "limits.bytes_out"),
    "egress.profiles.bytes_in": ("access/egress/streams.py", "limits.bytes_in"),
    "egress.profiles.idle": ("access/egress/connection.py", "limits.idle"),
    "egress.profiles.total": ("access/egress/connection.py", "limits.total"),
    "egress.profiles.rate": ("access/egress/pace.py", "limits.rate"),
    "egress.profiles.burst": ("access/egress/pace.py", "limits.burst"),
    "egress.ca_bundle": ("outside.py", "egress.ca_bundle"),
    "resources.api": ("policy/judging/resources.py", "ApiGrant"),
    "audit": ("serving.py", "AuditRules(**policy.file.audit"),
    "deployment": ("execution/pool.py", "sizing."),
    **{
        f"deployment.{key}": ("execution/sessions.py", f"sizing.{key}")
        for key in ("session_hold", "session_idle", "session_ttl")
    },
    "deployment.store": ("app.py", "sizing.store"),
}
"""Where a key, or all below it, takes effect: a file and what it says there."""


def models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in models(each)]


def keys(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[str]:
    for name, field in model.model_fields.items():
        here = (*at, field.alias or name)
        inner = models(field.annotation)
        if not inner:
            yield ".".join(here)
        for each in inner:
            yield from keys(each, here)


KEYS = [key for key in dict.fromkeys(keys(PolicyFile)) if key.rpartition(".")[2] not in READERS_ONLY]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_place_that_enforces_it(key: str) -> None:
    steps = key.split(".")
    places = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
    file, words = next(ENFORCED[place] for place in places if place in ENFORCED)
    assert words in (PACKAGE / file).read_text()


def test_the_table_names_nothing_else() -> None:
    every = {".".join(key.split(".")[:length]) for key in KEYS for length in range(1, key.count(".") + 2)}
    assert ENFORCED.keys() <= every


def leaves(value: object, at: Key = (), name: str = "") -> Iterator[tuple[str, Key]]:
    """The keys that the fixture writes, and a place of each."""
    if isinstance(value, BaseModel):
        for field, info in type(value).model_fields.items():
            yield from leaves(getattr(value, field), (*at, field), f"{name}.{info.alias or field}".strip("."))
    elif isinstance(value, dict) and any(isinstance(each, BaseModel) for each in value.values()):
        for key, each in value.items():
            yield from leaves(each, (*at, key), name)
    elif isinstance(value, tuple) and any(isinstance(each, BaseModel) for each in value):
        for index, each in enumerate(value):
            yield from leaves(each, (*at, index), name)
    elif value is not None:
        yield name, at


@pytest.fixture(scope="module")
def written() -> PolicyFile:
    return load_policy(FIXTURES / "every_key.yaml").file


def test_the_fixture_writes_every_key(written: PolicyFile) -> None:
    assert {name for name, _ in leaves(written)} >= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_changes_what_is_enforced(written: PolicyFile, key: str) -> None:
    places = [at for name, at in leaves(written) if name == key]
    changes = (_with(written, place, other(written, place)) for place in places)
    assert any(enforced(changed) != enforced(written) for changed in changes)


def other(file: PolicyFile, place: Key) -> object:
    """A value that is not the one at `place`; whether it would load is no matter."""
    here, model, field = file, file, ""
    for step in place:
        if isinstance(here, BaseModel):
            model, field = here, str(step)  # type: ignore[assignment]
        here = getattr(here, str(step)) if isinstance(here, BaseModel) else here[step]  # type: ignore[index]
    value: Any = here
    choices = list(_choices(type(model).model_fields[field].annotation))
    match value:
        case bool():
            return not value
        case str() if choices:
            return next(each for each in choices if each != value)
        case str() if field == "path":
            return "/tmp/**"
        case str():
            return "none" if field == "egress" else f"{value}x"
        case int() | float():
            return value + 1
        case tuple() | dict():
            return type(value)()
    return type(value)(value.count + 1, value.seconds)  # a rate


def _choices(annotation: object) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (each for each in get_args(annotation) if isinstance(each, str))
    for each in get_args(annotation):
        if not isinstance(each, str):
            yield from _choices(each)


def enforced(file: PolicyFile) -> object:
    """All that those who enforce a policy are given."""
    compiled = Compiled(file, "r", {})
    people = [replace(person("ann", groups=("a",)), client_id="cli"), ANYBODY]
    people += [replace(people[0], **change) for change in ({"sub": "b"}, {"iss": "b"}, {"client_id": None})]
    people.append(replace(people[0], claims={}))
    roles = [compiled.membership(each).roles for each in people]
    granted = [shown(compiled.effective(each)) for each in (("one",), ("two",))]
    return roles, granted, shown(compiled.apis), shown(file.deployment.sizing(2**40)), file.audit


def shown(value: Any) -> object:
    match value:
        case HostIndex():
            return shown(value.rules)
        case FileIndex():
            return shown(tuple(value))
        case Mapping():
            return {key: shown(each) for key, each in value.items()}
        case tuple() | list():
            return [shown(each) for each in value]
        case frozenset():
            return sorted(map(str, value))
    if is_dataclass(value):
        return {each.name: shown(getattr(value, each.name)) for each in fields(value)}
    return repr(value)
