"""What `decide` makes of rules: order, merging of roles, asking, observing, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.engine import decide, effective, visible_tools
from sandbox_server.policy.grants import DatabaseGrant, StatementGrant
from tests.policy.support import ANYBODY, ask, person, policy_of, refusal_of

WEB = "r: {tools: {allow: [web_api]}, web: {"
BOTH = "principals: [{match: {any: everyone}, roles: [a, b]}]\n"


def web(rules: str, rest: str = "") -> object:
    return policy_of(f"{{{WEB}{rules}}}}}}}", rest)


def test_a_role_for_everybody_needs_no_more_than_its_languages() -> None:
    policy = policy_of("{r: {code: {languages: {python: {}}}}}")
    assert visible_tools(effective(policy, ANYBODY)) == ("code_execution", "filesystem", "process", "sandbox")
    assert ask(policy, "code_execution", code="1").effect == "allow"
    assert ask(policy, "filesystem", operation="write", path="a", content="x").effect == "allow"
    assert ask(policy, "filesystem", operation="read", path="/tmp/a").effect == "allow"
    assert ask(policy, "filesystem", operation="write", path="/tmp/a", content="").effect == "deny"
    assert ask(policy, "process", operation="list").effect == "allow"
    assert ask(policy, "web_api", method="GET", url="https://example.com/").effect == "deny"


def test_with_principals_nothing_is_implied() -> None:
    everybody = "principals: [{match: {any: everyone}, roles: [r]}]\n"
    policy = policy_of("{r: {code: {languages: {python: {}}}}}", everybody)
    assert visible_tools(effective(policy, ANYBODY)) == ()
    with_files = policy_of("{r: {tools: {allow: [filesystem]}, code: {languages: {python: {}}}}}", everybody)
    assert ask(with_files, "filesystem", operation="read", path="a").reason == "files.no_rule"


def test_an_empty_list_is_nothing() -> None:
    assert ask(policy_of("{r: {tools: {allow: []}}}"), "filesystem", operation="list").effect == "deny"
    empty = policy_of("{r: {tools: {allow: [filesystem]}, files: {allow: []}}}")
    assert ask(empty, "filesystem", operation="list").effect == "deny"
    no_host = policy_of("{r: {tools: {allow: [web_api]}, web: {allow: [{hosts: []}]}}}")
    assert ask(no_host, "web_api", method="GET", url="https://example.com/").effect == "deny"


def test_a_role_that_denies_a_tool_wins_over_one_that_allows_it() -> None:
    code = "code: {languages: {python: {}}}"
    policy = policy_of(
        f"{{a: {{tools: {{allow: [code_execution]}}, {code}}}, b: {{tools: {{deny: [code_execution]}}}}}}",
        BOTH,
    )
    decision = ask(policy, "code_execution", code="1")
    assert (decision.effect, decision.rule) == ("deny", "roles.b.tools.deny[0]")


def test_a_rule_that_denies_wins_over_all_that_allow_in_any_role() -> None:
    allow = "a: {tools: {allow: [web_api]}, web: {allow: [{hosts: [api.example.com]}]}}"
    deny = 'b: {web: {deny: [{id: no-admin, hosts: ["*.example.com"], paths: ["/admin/**"]}]}}'
    policy = policy_of(f"{{{allow}, {deny}}}", BOTH)
    assert ask(policy, "web_api", url="https://api.example.com/x").effect == "allow"
    decision = ask(policy, "web_api", url="https://api.example.com/admin/x")
    assert (decision.effect, decision.rule) == ("deny", "roles.b.web.deny[no-admin]")


def test_a_rule_that_asks_is_asked_unless_another_denies() -> None:
    rules = (
        "allow: [{hosts: [api.example.com], methods: [GET, POST]},"
        " {id: post, hosts: [api.example.com], methods: [POST], effect: ask}],"
        ' deny: [{hosts: [api.example.com], paths: ["/x"]}]'
    )
    policy = policy_of(f"{{{WEB}{rules}}}}}}}")
    assert ask(policy, "web_api", method="GET", url="https://api.example.com/").effect == "allow"
    decision = ask(policy, "web_api", method="POST", url="https://api.example.com/")
    assert (decision.effect, decision.rule) == ("ask", "roles.r.web.allow[post]")
    assert decision.grant is not None
    assert ask(policy, "web_api", method="POST", url="https://api.example.com/x").effect == "deny"


def test_a_tool_can_be_granted_for_the_asking() -> None:
    policy = policy_of("{r: {tools: {ask: [code_execution]}, code: {languages: {python: {}}}}}")
    decision = ask(policy, "code_execution", code="1")
    assert (decision.effect, decision.rule) == ("ask", "roles.r.tools.ask[0]")
    assert ask(policy, "code_execution", code="1", language="ruby").effect == "deny"
    assert visible_tools(effective(policy, ANYBODY)) == ("code_execution",)


def test_a_policy_that_observes_lets_through_and_says_what_it_would_deny() -> None:
    rules = "allow: [{hosts: [a.example.com]}], deny: [{id: d, hosts: [b.example.com]}]"
    policy = policy_of(f"{{{WEB}{rules}}}}}}}", "enforcement: observe\n")
    allowed = ask(policy, "web_api", url="https://a.example.com/")
    assert (allowed.effect, allowed.would_deny) == ("allow", False)
    for url, rule, reason in (
        ("https://b.example.com/", "roles.r.web.deny[d]", "web.denied"),
        ("https://c.example.com/", "default", "web.no_rule"),
    ):
        decision = ask(policy, "web_api", url=url)
        assert (decision.effect, decision.would_deny) == ("allow", True)
        assert (decision.rule, decision.reason) == (rule, reason)
        assert decision.grant is not None
    tool = ask(policy, "filesystem", operation="list")
    assert (tool.effect, tool.would_deny, tool.reason) == ("allow", True, "tool.not_granted")


def test_what_only_would_be_denied_is_carried_out_by_the_rule_that_allows_it() -> None:
    """Else a trial breaks what it should only watch: the request would go without its credentials."""
    rule = "hosts: [a.example.com], addresses: ['10.1.2.3/32'], inject: {X-Key: 'secret://key'}"
    rules = (
        f"allow: [{{id: a, {rule}, rate: 5/min}}], deny: [{{id: d, hosts: [a.example.com], paths: ['/x']}}]"
    )
    policy = policy_of(f"{{{WEB}{rules}}}}}}}", "enforcement: observe\n")
    allowed, watched = (ask(policy, "web_api", url=f"https://a.example.com/{path}") for path in "ax")
    assert (watched.effect, watched.would_deny, watched.rule) == ("allow", True, "roles.r.web.deny[d]")
    assert watched.grant == allowed.grant

    site = f"allow: [{{{rule}, terminate: true}}], deny: [{{hosts: [a.example.com], ports: [443]}}]"
    policies = [
        policy_of(
            "{r: {code: {languages: {python: {}}, egress: p}}}",
            f"egress: {{profiles: {{p: {{{rules}}}}}}}\nenforcement: observe\n",
        )
        for rules in (site, site.partition(", deny")[0])
    ]
    found = [ask(each, "egress", profile="p", host="a.example.com", port=443) for each in policies]
    assert [each.would_deny for each in found] == [True, False]
    assert found[0].grant == found[1].grant


def test_observing_never_lowers_the_floor_nor_invents_what_nobody_granted() -> None:
    policy = policy_of(
        "{r: {tools: {allow: [web_api]}, code: {languages: {python: {}}}}}", "enforcement: observe\n"
    )
    for url in ("http://169.254.169.254/", "https://a@b.example.com/", "https://[fd00:ec2::254]/"):
        decision = ask(policy, "web_api", url=url)
        assert (decision.effect, decision.would_deny) == ("deny", False)
        assert decision.rule.startswith("floor.")
    assert ask(policy, "filesystem", operation="read", path="/etc/passwd").rule == "floor.files.outside"
    assert ask(policy, "filesystem", operation="read", path="../x").rule == "floor.files.path"
    assert ask(policy, "code_execution", code="1", language="ruby").effect == "deny"
    assert ask(policy, "database", query="select 1", database="x").effect == "deny"
    assert ask(policy, "no_such_tool").effect == "deny"


def test_one_rule_can_observe_by_itself() -> None:
    rules = "allow: [{hosts: [a.example.com]}], deny: [{id: d, hosts: [a.example.com], observe: true}]"
    decision = ask(policy_of(f"{{{WEB}{rules}}}}}}}"), "web_api", url="https://a.example.com/")
    assert (decision.effect, decision.would_deny, decision.rule) == ("allow", True, "roles.r.web.deny[d]")
    trying = "allow: [{id: new, hosts: [a.example.com], observe: true}]"
    decision = ask(policy_of(f"{{{WEB}{trying}}}}}}}"), "web_api", url="https://a.example.com/")
    assert (decision.effect, decision.would_deny, decision.rule) == ("allow", True, "roles.r.web.allow[new]")


def test_metadata_addresses_stay_closed_whatever_a_rule_opens() -> None:
    networks = '["10.1.2.3/32", "169.254.0.0/16"]'
    opened = f'allow: [{{hosts: ["10.1.2.3", "169.254.169.254"], schemes: [http], addresses: {networks}}}]'
    policy = policy_of(f"{{{WEB}{opened}}}}}}}")
    assert ask(policy, "web_api", url="http://10.1.2.3/").effect == "allow"
    assert ask(policy, "web_api", url="http://169.254.169.254/").rule == "floor.metadata_address"
    closed = policy_of(f'{{{WEB}allow: [{{hosts: ["10.1.2.3"], schemes: [http]}}]}}}}}}')
    decision = ask(closed, "web_api", url="http://10.1.2.3/")
    assert (decision.effect, decision.rule) == ("deny", "floor.address")
    assert "addresses" in decision.hint


def test_a_request_body_over_a_rule_s_own_size_is_denied_with_the_size() -> None:
    rules = (
        "allow: [{hosts: [a.example.com], methods: [POST], request_body: 1KiB}], limits: {request_body: 1MiB}"
    )
    policy = policy_of(f"{{{WEB}{rules}}}}}}}")
    url = "https://a.example.com/"
    assert ask(policy, "web_api", method="POST", url=url, data="x" * 1024).effect == "allow"
    decision = ask(policy, "web_api", method="POST", url=url, data={"a": "x" * 1024})
    assert (decision.effect, decision.reason, decision.nearest) == ("deny", "web.body", "1024 bytes")


def test_a_role_s_write_access_is_not_lent_to_the_tables_of_another() -> None:
    tools = "tools: {allow: [database]}"
    read = "w: {dsn: 'secret://ro', dialect: sqlite, relations: {allow: [main.public]}}"
    write = (
        "w: {dsn: 'secret://rw', dialect: sqlite, mode: write,"
        " relations: {allow: [main.mine], deny: [main.never]}}"
    )
    policy = policy_of(f"{{a: {{{tools}, databases: {{{read}}}}}, b: {{databases: {{{write}}}}}}}", BOTH)

    def of(operation: str, query: str) -> object:
        decision = ask(policy, "database", database="w", operation=operation, query=query)
        grant = decision.grant
        return grant.database.dsn if isinstance(grant, StatementGrant) else decision.effect

    assert of("select", "select 1 from main.public") == "ro"
    assert of("delete", "delete from main.mine where id = 1") == "rw"
    assert of("delete", "delete from main.public where id = 1") == "deny"
    assert of("select", "select 1 from main.public, main.mine") == "deny"


def test_what_one_role_denies_of_a_database_holds_for_all() -> None:
    tools = "tools: {allow: [database]}"
    wide = "w: {dsn: 'secret://x', dialect: sqlite, relations: {allow: ['main.*']}}"
    narrow = "w: {dsn: 'secret://x', dialect: sqlite, relations: {deny: [main.secrets]}}"
    policy = policy_of(f"{{a: {{{tools}, databases: {{{wide}}}}}, b: {{databases: {{{narrow}}}}}}}", BOTH)
    assert ask(policy, "database", database="w", query="select 1 from secrets").effect == "deny"
    assert ask(policy, "database", database="w", query="select 1 from others").effect == "allow"


def test_a_database_can_be_asked_with_named_queries_only() -> None:
    rules = (
        "{r: {tools: {allow: [database]}, databases: {w: {dsn: 'secret://x', dialect: sqlite, ad_hoc: false,"
        " relations: {allow: ['main.*']}, queries: {by_day: {sql: 'select a from t where d = :d', "
        "params: {d: {type: date}}}}}}}}"
    )
    policy = policy_of(rules)
    assert ask(policy, "database", query="select a from t").reason == "sql.query"
    decision = ask(policy, "database", query="@by_day")
    assert decision.rule == "roles.r.databases.w.queries.by_day"
    assert isinstance(decision.grant, StatementGrant)
    assert decision.grant.query is not None
    assert decision.grant.query.params["d"].type == "date"
    assert isinstance(decision.grant.database, DatabaseGrant)


def test_packages_are_granted_by_name_and_need_a_way_out() -> None:
    egress = "egress: {profiles: {out: {allow: ['packages.example.org:443']}}}\n"
    code = "{r: {code: {languages: {python: {}}, packages: ['numpy', 'my-*'], egress: out}}}"
    policy = policy_of(code, egress)
    for allowed in ("numpy", "NumPy==2.1", "my_tool[extra]>=1"):
        assert ask(policy, "code_execution", code="1", packages=(allowed,)).effect == "allow"
    for denied in ("pandas", "numpy @ https://evil.example/x.whl", "git+https://x", "./x", "-r x", ""):
        assert ask(policy, "code_execution", code="1", packages=(denied,)).effect == "deny"
    without = policy_of("{r: {code: {languages: {python: {}}, packages: ['*']}}}")
    assert ask(without, "code_execution", code="1", packages=("numpy",)).reason == "code.egress"


def test_egress_rules_for_paths_hold_where_paths_are_seen() -> None:
    egress = (
        "egress: {profiles: {out: {allow: [{hosts: [a.example.com], ports: [80, 443], paths: ['/ok/**']},"
        " {hosts: [b.example.com], paths: ['/ok/**'], terminate: true}, 'c.example.com'],"
        " deny: [{hosts: [c.example.com], paths: ['/no/**']}]}}}\n"
    )
    policy = policy_of("{r: {code: {languages: {python: {}}, egress: out}}}", egress)

    def effect(host: str, scheme: str = "https", **seen: str) -> str:
        port = 80 if scheme == "http" else 443
        return ask(policy, "egress", profile="out", host=host, port=port, scheme=scheme, **seen).effect

    assert effect("a.example.com", "http", method="GET", path="/ok/x") == "allow"
    assert effect("a.example.com", "http", method="GET", path="/x") == "deny"
    assert effect("a.example.com") == "deny"
    assert effect("b.example.com") == "allow"
    assert effect("b.example.com", method="GET", path="/x") == "deny"
    # A tunnel in which nobody could see the denied path is denied as a whole.
    assert effect("c.example.com") == "deny"


def test_an_alias_of_an_index_is_what_the_resolver_says() -> None:
    from sandbox_server.policy.loader import parse_policy

    text = (
        "schema: sandbox-policy/v1\nroles: {r: {code: {languages: {python: {}}, egress: out}}}\n"
        "egress: {profiles: {out: {allow: ['@python-index']}}}\n"
    )
    resolved = parse_policy(
        text.encode(), source="p", aliases=lambda alias: [f"{alias[1:]}.example.com:8443"]
    )
    out = {"profile": "out", "host": "python-index.example.com", "port": 8443}
    assert ask(resolved, "egress", **out).effect == "allow"
    assert ask(resolved, "egress", **{**out, "port": 443}).effect == "deny"
    unresolved = parse_policy(text.encode(), source="p")
    assert unresolved.unresolved == ("@python-index",)
    assert ask(unresolved, "egress", **out).effect == "deny"
    assert resolved.revision != unresolved.revision


def test_an_api_resource_goes_through_the_reader_s_own_web_rules() -> None:
    api = "resources: [{api: {name: status, url: 'https://a.example.com/status', ttl: 5s}}]\n"
    granted = policy_of(f"{{{WEB}allow: [{{hosts: [a.example.com]}}]}}}}}}", api)
    assert ask(granted, "resource", uri="api://status").effect == "allow"
    assert ask(granted, "resource", uri="api://other").effect == "deny"
    elsewhere = policy_of(f"{{{WEB}allow: [{{hosts: [b.example.com]}}]}}}}}}", api)
    assert ask(elsewhere, "resource", uri="api://status").reason == "web.no_rule"


def test_claims_are_compared_as_they_are() -> None:
    rest = (
        "principals: [{match: {claims: {level: 1}}, roles: [a]},"
        " {match: {claims: {scope: [run]}}, roles: [b]},"
        " {match: {client_id: cli}, roles: [c]}]\n"
    )
    policy = policy_of("{a: {}, b: {}, c: {}}", rest)

    def roles(who: Principal) -> tuple[str, ...]:
        return effective(policy, who).roles

    assert roles(person(level=1)) == ("a",)
    assert roles(person(level=True)) == ()
    assert roles(person(level="1")) == ()
    assert roles(person(scope="read run")) == ("b",)
    assert roles(person(scope="running")) == ()
    assert roles(replace(person(), client_id="cli")) == ("c",)
    assert roles(replace(person(level=1), authenticated=False)) == ()


@pytest.mark.parametrize(
    "request_",
    [
        Request("web_api", {"url": 7}),
        Request("egress", {"profile": "x", "host": "a.example.com", "port": "443"}),
        Request("code_execution", {"timeout": "x", "language": "python"}),
        Request("", {}),
    ],
)
def test_what_goes_wrong_while_deciding_is_a_denial(request_: Request) -> None:
    roles = "{r: {tools: {allow: [web_api, code_execution]}, code: {languages: {python: {}}, egress: x}}}"
    policy = policy_of(roles, "egress: {profiles: {x: {}}}\nenforcement: observe\n")
    decision = decide(policy, ANYBODY, request_)
    assert (decision.effect, decision.would_deny, decision.grant) == ("deny", False, None)
    assert decision.reason in ("error", "tool.not_granted")


def test_every_decision_tells_its_way() -> None:
    policy = policy_of("{r: {code: {languages: {python: {}}}}}")
    decision = ask(policy, "code_execution", code="1")
    assert decision.revision == policy.revision
    assert decision.trace == (
        "principals: everybody",
        "roles: r",
        "allow: roles.r.code",
        "allow: roles.r.code.languages.python",
    )


def test_the_same_roles_share_one_effective_policy() -> None:
    policy = policy_of("{r: {code: {languages: {python: {}}}}}")
    assert effective(policy, ANYBODY) is effective(policy, person("b"))


@pytest.mark.parametrize(
    ("roles", "rest", "complaint"),
    [
        ("{a: {inherits: [b]}, b: {inherits: [a]}}", BOTH, "roles.a.inherits: inherits itself: a > b > a"),
        ("{a: {inherits: [a]}}", "", "inherits itself: a > a"),
        ("{a: {inherits: [bb]}, bbb: {}}", BOTH, "unknown role, did you mean 'bbb'?"),
        ("{a: {}, b: {}}", "", "p.yaml:1:1: principals: is required, because there are several roles"),
        ("{a: {}}", "principals: [{match: {}, roles: [a]}]\n", "says nothing"),
        ("{a: {}}", "principals: [{match: {any: everyone, sub: x}, roles: [a]}]\n", "everyone has no claims"),
        ("{a: {}}", "principals: [{match: {any: everyone}, roles: [aa]}]\n", "did you mean 'a'?"),
        ("{a: {tools: {allow: [web-api]}}}", "", "did you mean 'web_api'?"),
        ("{a: {code: {egress: pakages, languages: {python: {}}}}}", "egress: {profiles: {packages: {}}}\n",
         "unknown egress profile, did you mean 'packages'?"),
        ("{a: {web: {allow: [{hosts: ['*']}]}}}", "", "roles.a.web.allow[0].hosts[0]: "),
        ("{a: {web: {allow: [{hosts: ['*.co.uk']}]}}}", "", "would match hosts of strangers"),
        ("{a: {web: {allow: [{hosts: ['https://a.example.com']}]}}}", "", "a host alone"),
        ("{a: {web: {allow: [{hosts: [a.example.com], prots: [1]}]}}}", "", "did you mean 'ports'?"),
        ("{a: {web: {allow: [{hosts: [a.example.com], addresses: ['169.254.169.254/32']}]}}}", "",
         "never opened"),
        ("{a: {web: {allow: [{hosts: [a.example.com], inject: {Authorization: hunter2}}]}}}", "",
         "write secret://NAME|expected secret://NAME"),
        ("{a: {web: {allow: [{hosts: [a.example.com], inject: {Host: 'secret://x'}}]}}}", "",
         "belongs to the server"),
        ("{a: {web: {allow: [{id: x, hosts: []}, {id: x, hosts: []}]}}}", "", "the same id as allow[0]"),
        ("{a: {web: {allow: [{hosts: [], rate: 60}]}}}", "", "expected a number per time"),
        ("{a: {web: {limits: {body: 5MB}}}}", "", "did you mean '5MiB'?"),
        ("{a: {quotas: {runs: 60/fortnight}}}", "", "60/min"),
        ("{a: {quotas: {egress_bytes: 5/day}}}", "", "has no unit"),
        ("{a: {quotas: {concurrent: 9}}}", "ceilings: {concurrent: 8}\n",
         "above ceilings.concurrent, which is 8"),
        ("{a: {files: {allow: [{path: workspace, ops: [read]}]}}}", "", "must begin with / or **/"),
        ("{a: {files: {allow: [{path: /a/../b, ops: [read]}]}}}", "", "'..'"),
        ("{a: {files: {allow: [{path: /a}]}}}", "", "ops: is required"),
        ("{a: {files: {root: /etc}}}", "", "must be /workspace or a directory below it"),
        ("{a: {databases: {w: {dsn: 'postgres://u:hunter2@h/d', dialect: postgres}}}}", "",
         "expected secret://NAME"),
        ("{a: {databases: {w: {dsn: 'secret://x', dialect: oracle}}}}", "", "expected 'sqlite'"),
        ("{a: {}}", "egress: {profiles: {p: {tunnels: 0}}}\n", "egress.profiles.p.tunnels"),
        ("{a: {}}", "egress: {profiles: {p: {allow: ['@pypi']}}}\n",
         "unknown alias, known are @python-index"),
        ("{a: {}}", "egress: {profiles: {p: {allow: [{hosts: [], opaque: true, terminate: true}]}}}\n",
         "not opaque"),
        ("{a: {}}", "resources: [{api: {name: x, url: 'https://a.de/', headers: {Cookie: hunter2}}}]\n",
         "carries a credential"),
        ("{a: {databases: {w: {dsn: 'secret://x', dialect: postgres, functions: {allow: [pg_read_file]}}}}}",
         "",
         "functions.allow[0]: reaches beyond its arguments"),
        ("{a: {}}", "audit: {on_failure: ignore}\n", "expected 'stop' or 'continue'"),
        ("{a: {}}", "enforcement: obsreve\n", "did you mean 'observe'?"),
    ],
)  # fmt: skip
def test_a_policy_that_cannot_mean_what_it_says_is_refused(roles: str, rest: str, complaint: str) -> None:
    message = refusal_of(roles, rest)
    assert any(each in message for each in complaint.split("|"))
    assert message.startswith("p.yaml:")
    assert "hunter2" not in message
