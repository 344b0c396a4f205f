"""What must be true of every policy and every request."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sandbox_server.errors import ConfigError
from sandbox_server.policy.decision import Json, Principal, Request
from sandbox_server.policy.dump import dump
from sandbox_server.policy.engine import decide, effective
from sandbox_server.policy.loader import parse_policy
from sandbox_server.policy.models import Policy
from tests.policy.support import ANYBODY, person

HOSTS = ("a.example.com", "b.example.com", "c.a.example.com", "example.org")
PATTERNS = (*HOSTS, "*.example.com", "*.a.example.com", "a.example.com:8443")
METHODS = ("GET", "POST")
PATHS = ("/", "/x", "/x/y")
GLOBS = ("/x/**", "/*", "/**", "/x")
FILES = ("/workspace/**", "/workspace/a/*", "**/b", "/tmp/**")
TOOLS = ("code_execution", "filesystem", "web_api", "database", "process", "sandbox")
ROLES = ("one", "two", "three")


def some(values: tuple[str, ...], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True)


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


WEB_DENY = st.builds(
    lambda hosts, more: {"hosts": hosts, **more},
    some(PATTERNS, 1),
    optional(methods=some(METHODS), paths=some(GLOBS), ports=st.just([443])),
)
WEB_ALLOW = st.builds(
    lambda hosts, more: {"hosts": hosts, **more},
    some(PATTERNS, 1),
    optional(
        methods=some(METHODS), paths=some(GLOBS), request_body=st.just("1KiB"), ports=st.just([443, 8443])
    ),
)
FILE_RULE = st.builds(
    lambda path, ops: {"path": path, "ops": ops},
    st.sampled_from(FILES),
    some(("read", "write", "list", "delete"), 1),
)
SIZES = st.sampled_from(["32MiB", "128MiB", "300MiB", "2GiB"])
LIMITS = optional(
    wall=st.sampled_from(["1s", "1500ms", "20s", "1m"]),
    memory=SIZES,
    pids=st.sampled_from([8, 64, 1024]),
    workspace=st.sampled_from(["64KiB", "16MiB", "64MiB"]),
    cpus=st.sampled_from([0.25, 1.0, 3.5]),
)
CODE = st.builds(
    lambda more, languages: {**more, "languages": languages},
    optional(defaults=LIMITS, runtime=st.sampled_from(["runc", "runsc"]), packages=some(("numpy", "*"))),
    st.dictionaries(st.sampled_from(["python", "bash", "javascript"]), LIMITS, min_size=1, max_size=2),
)
ROLE = optional(
    tools=optional(allow=some(TOOLS), deny=some(TOOLS), ask=some(TOOLS)),
    code=CODE,
    web=optional(allow=st.lists(WEB_ALLOW, max_size=3), deny=st.lists(WEB_DENY, max_size=2)),
    files=optional(allow=st.lists(FILE_RULE, max_size=3), deny=st.lists(FILE_RULE, max_size=2)),
    quotas=optional(
        runs=st.sampled_from(["60/min", "5/s", "1000/day"]),
        concurrent=st.integers(0, 20),
        egress_bytes=st.sampled_from(["0/day", "10MiB/day", "1.5KiB/s"]),
    ),
    note=st.text(max_size=20),
)
CEILINGS = optional(
    wall=st.sampled_from(["20s", "10m"]), memory=st.sampled_from(["512MiB", "4GiB"]),
    pids=st.sampled_from([64, 2048]),
    cpus=st.sampled_from([1.0, 4.0]), concurrent=st.sampled_from([4, 100]),
    workspace=st.sampled_from(["64MiB"]),
)  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    roles = draw(st.dictionaries(st.sampled_from(ROLES), ROLE, min_size=1, max_size=3))
    names = list(roles)
    for index, name in enumerate(names[1:], 1):
        roles[name]["inherits"] = draw(some(tuple(names[:index])))
    document: dict[str, Any] = {"schema": "sandbox-policy/v1", "roles": roles}
    matches = st.sampled_from(
        [{"any": "everyone"}, {"any": "authenticated"}, {"sub": "a"}, {"claims": {"g": ["x", 1]}}]
    )
    if len(names) > 1 or draw(st.booleans()):
        rule = st.builds(lambda match, held: {"match": match, "roles": held}, matches, some(tuple(names)))
        document["principals"] = draw(st.lists(rule, max_size=3))
    return {**document, "ceilings": draw(CEILINGS), **draw(optional(enforcement=st.just("observe")))}


class Plain(yaml.SafeDumper):
    """Repeats what occurs twice: the strategies share values, and a policy may hold no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text_of(document: dict[str, Any]) -> bytes:
    return yaml.dump(document, Dumper=Plain, sort_keys=False).encode()


def loaded(document: dict[str, Any]) -> Policy:
    try:
        return parse_policy(text_of(document), source="p.yaml")
    except ConfigError:
        assume(False)
        raise


PRINCIPALS = st.sampled_from([ANYBODY, person(), person("b", g="x"), person("c", g=(1,))])
WEB_REQUEST = st.builds(
    lambda host, port, path, method, data: Request(
        "web_api", {"method": method, "url": f"https://{host}{port}{path}", "data": data}
    ),
    st.sampled_from(HOSTS),
    st.sampled_from(["", ":8443", ":444"]),
    st.sampled_from(PATHS),
    st.sampled_from(METHODS),
    st.sampled_from([None, "x" * 2000]),
)
FILE_REQUEST = st.builds(
    lambda operation, path, recursive: Request(
        "filesystem", {"operation": operation, "path": path, "to": "a/b", "recursive": recursive}
    ),
    st.sampled_from(["read", "write", "list", "delete", "move", "copy", "stat"]),
    st.sampled_from([".", "a", "a/x", "b", "/tmp/x"]),
    st.booleans(),
)
CODE_REQUEST = st.builds(
    lambda tool, language, timeout: Request(tool, {"language": language, "timeout": timeout, "code": "1"}),
    st.sampled_from(["code_execution", "process", "sandbox"]),
    st.sampled_from(["python", "bash", "ruby"]),
    st.sampled_from([None, 5, 30.0, 10_000]),
)
REQUESTS = st.one_of(WEB_REQUEST, FILE_REQUEST, CODE_REQUEST)
ORDER = {"deny": 0, "ask": 1, "allow": 2}


def level(policy: Policy, who: Principal, request: Request) -> int:
    """How much is allowed; what is only observed counts as what it would be."""
    decision = decide(policy, who, request)
    return 0 if decision.would_deny else ORDER[decision.effect]


@settings(max_examples=80)
@given(st.data(), documents(), PRINCIPALS, REQUESTS)
def test_adding_a_deny_never_allows_more(
    data: st.DataObject, document: dict[str, Any], who: Principal, request: Request
) -> None:
    before = level(loaded(document), who, request)
    role = document["roles"][data.draw(st.sampled_from(list(document["roles"])))]
    section, rule = data.draw(
        st.one_of(
            st.tuples(st.just("web"), WEB_DENY),
            st.tuples(st.just("files"), FILE_RULE),
            st.tuples(st.just("tools"), st.sampled_from(TOOLS)),
        )
    )
    place = role.setdefault(section, {})
    place["deny"] = [*place.get("deny", ()), rule]
    assert level(loaded(document), who, request) <= before


@settings(max_examples=80)
@given(st.data(), documents(), PRINCIPALS, REQUESTS)
def test_removing_an_allow_never_allows_more(
    data: st.DataObject, document: dict[str, Any], who: Principal, request: Request
) -> None:
    role = document["roles"][data.draw(st.sampled_from(list(document["roles"])))]
    section, rule = data.draw(
        st.one_of(
            st.tuples(st.just("web"), WEB_ALLOW),
            st.tuples(st.just("files"), FILE_RULE),
            st.tuples(st.just("tools"), st.sampled_from(TOOLS)),
        )
    )
    rules = role.setdefault(section, {}).setdefault("allow", [])
    after = level(loaded(document), who, request)
    rules.append(rule)
    assert after <= level(loaded(document), who, request)


@settings(max_examples=80)
@given(documents(), PRINCIPALS)
def test_effective_limits_never_exceed_the_ceilings(document: dict[str, Any], who: Principal) -> None:
    policy = loaded(document)
    granted, ceilings = effective(policy, who), policy.file.ceilings
    for language in granted.languages.values():
        for key in ("wall", "cpu", "memory", "pids", "output", "workspace", "cpus"):
            most = getattr(ceilings, key)
            assert most is None or language.limits[key].value <= most
        limits = language.grant.profile.limits
        assert limits.memory == language.limits["memory"].value
        assert limits.workspace + limits.tmp + limits.shm < limits.memory
        assert all(limit.source for limit in language.limits.values())
    if ceilings.concurrent is not None:
        assert granted.quotas["concurrent"].value <= ceilings.concurrent


@settings(max_examples=80)
@given(documents())
def test_a_policy_that_is_written_back_loads_as_itself(document: dict[str, Any]) -> None:
    policy = loaded(document)
    again = parse_policy(dump(policy).encode(), source="p.yaml")
    assert again == policy
    assert again.revision == policy.revision


ANYTHING: st.SearchStrategy[Json] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30),
              st.sampled_from(HOSTS)),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple),
                            st.dictionaries(st.text(max_size=5), inner)),
    max_leaves=8,
)  # fmt: skip
KEYS = st.sampled_from(
    ["url", "method", "data", "operation", "path", "to", "language", "timeout", "packages", "query",
     "database", "uri", "host", "port", "profile", "scheme", "name", "content", "content_base64", "offset",
     "recursive", "memory"]
)  # fmt: skip
WEIRD = st.builds(
    Request,
    st.sampled_from([*TOOLS, "egress", "resource", "prompt", "", "x" * 10_000]),
    st.dictionaries(KEYS, ANYTHING, max_size=8),
)


@settings(max_examples=300)
@given(WEIRD, st.dictionaries(st.text(max_size=5), ANYTHING, max_size=3), st.booleans())
def test_nothing_makes_decide_raise(request: Request, claims: dict[str, Json], observe: bool) -> None:
    policy = everything("observe" if observe else "enforce")
    decision = decide(policy, Principal("s", "i", "c", claims, authenticated=True), request)
    assert decision.effect in ("allow", "deny", "ask")
    assert decision.rule or decision.effect == "allow"
    assert (decision.grant is None) or decision.effect != "deny"
    if request.tool not in (*TOOLS, "egress", "resource", "prompt"):
        assert decision.effect == "deny"


_EVERYTHING = """
schema: sandbox-policy/v1
enforcement: {}
roles:
  r:
    tools: {{allow: [code_execution, filesystem, process, sandbox, web_api, database]}}
    code: {{languages: {{python: {{}}}}, egress: out, packages: ["*"]}}
    files: {{allow: [{{path: "/workspace/**", ops: [read, write, list, delete]}}], max_file: 1KiB}}
    web: {{allow: [{{hosts: ["*.example.com"], methods: [GET, POST]}}]}}
    databases: {{d: {{dsn: "secret://d", dialect: sqlite, relations: {{allow: ["main.*"]}}}}}}
egress: {{profiles: {{out: {{allow: ["*.example.com:443"]}}}}}}
resources: [{{api: {{name: s, url: "https://a.example.com/"}}}}]
"""


@lru_cache(maxsize=2)
def everything(enforcement: str) -> Policy:
    return parse_policy(_EVERYTHING.format(enforcement).encode(), source="p.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[1, " * 20 + "\n" + "x: y\n" * 200_000,
        "".join(f"k{n}: {n}\n" for n in range(70_000)),
        "schema: sandbox-policy/v1\nroles: {" + ", ".join(f"r{n}: {{}}" for n in range(60_000)) + "}\n",
        "schema: sandbox-policy/v1\nroles:\n  a:\n    inherits: [" + "a, " * 200_000 + "a]\n",
        "- " * 500_000,
        "'" * 1_000_000,
        "{" * 1_000_000,
        "? " * 500_000,
        "a" * 1_000_000,
        "#" * 1_000_000,
        "\n" * 1_000_000,
        "!!x " * 250_000,
        "- |\n" + " x\n" * 300_000,
    ],
    ids=range(13),
)
def test_a_mebibyte_of_anything_is_an_error_in_bounded_time(text: str) -> None:
    raw = text.encode()[: 1024 * 1024]
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_policy(raw, source="p.yaml")
    # Some 2 s on a slow machine: the bound is against what grows with the square of the size.
    assert time.process_time() - start < 20
    assert caught.value.message.startswith("p.yaml:")
    assert len(caught.value.message) < 20_000


def test_ten_thousand_rules_cost_a_decision_no_more_than_those_about_its_host() -> None:
    from sandbox_server.policy.hostrules import HostRule

    rules = "\n".join(f"        - {{hosts: [h{n}.example.com], paths: ['/a/**']}}" for n in range(10_000))
    text = (
        "schema: sandbox-policy/v1\nroles:\n  r:\n    tools: {allow: [web_api]}\n    web:\n"
        f"      deny: [{{hosts: ['*.h5.example.com']}}]\n      allow:\n{rules}\n"
    )
    policy = parse_policy(text.encode(), source="p.yaml")
    web = effective(policy, ANYBODY).web
    looked: list[HostRule] = list(web.allow.about("h77.example.com"))
    assert [rule.source for rule in looked] == ["roles.r.web.allow[77]"]
    assert len(list(web.deny.about("a.b.h5.example.com"))) == 1
    assert len(web.allow.near("nothing.example.com")) <= 24
    allowed = decide(policy, ANYBODY, Request("web_api", {"url": "https://h9999.example.com/a/b"}))
    assert (allowed.effect, allowed.rule) == ("allow", "roles.r.web.allow[9999]")
