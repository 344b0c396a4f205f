"""What the lint calls dead or needless is: checked against the matching that is enforced."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server.guards.hosts import HostPattern, PathGlob
from sandbox_server.policy.lint import covering

segments = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "*b"])
globs = st.lists(segments, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
paths = st.lists(st.sampled_from(["a", "b", "ab", "abb", "c"]), min_size=1, max_size=5).map(
    lambda parts: "/" + "/".join(parts)
)
hosts = st.lists(st.sampled_from(["a", "b", "example"]), min_size=1, max_size=3).map(
    lambda labels: ".".join([*labels, "example.org"])
)
patterns = st.tuples(st.booleans(), hosts).map(lambda pair: ("*." if pair[0] else "") + pair[1])


@settings(max_examples=1000)
@given(globs, globs, st.lists(paths, min_size=20, max_size=20))
def test_a_glob_that_covers_another_matches_all_that_it_matches(a: str, b: str, tried: list[str]) -> None:
    outer, inner = PathGlob.parse(a), PathGlob.parse(b)
    if covering.glob_covers(a, b):
        assert [path for path in tried if inner.matches(path) and not outer.matches(path)] == []
    if covering.globs_disjoint(a, b):
        assert [path for path in tried if inner.matches(path) and outer.matches(path)] == []


@given(patterns, patterns, st.lists(hosts, min_size=20, max_size=20))
def test_hosts_likewise(a: str, b: str, tried: list[str]) -> None:
    outer, inner = HostPattern.parse(a), HostPattern.parse(b)
    if covering.host_covers(outer, inner):
        assert [host for host in tried if inner.matches(host) and not outer.matches(host)] == []
        assert (outer.wildcard, outer.host) in set(covering.host_keys(inner))
    if not covering.hosts_meet(outer, inner):
        assert [host for host in tried if inner.matches(host) and outer.matches(host)] == []


def test_plain_cases() -> None:
    assert covering.glob_covers("/repos/**", "/repos/acme/*")
    assert covering.glob_covers("**/.git/**", "/workspace/.git/hooks/x")
    assert not covering.glob_covers("/repos/*", "/repos/**")
    assert covering.globs_disjoint("/a/**", "/b/**")
    assert not covering.globs_disjoint("/workspace/**", "**/.git/hooks/**")
    assert covering.names_cover("sales.*", "sales.orders")
    assert covering.names_disjoint("*.secrets", "sales.orders")
    assert not covering.names_disjoint("*.secrets", "sales.*")
