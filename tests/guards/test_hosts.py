"""Patterns of hosts and paths: what they match, and which are not taken."""

from __future__ import annotations

import re
import time
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.guards.hosts import HostPattern, PathGlob

MATCHES = [
    ("api.example.com", "api.example.com", True),
    ("API.Example.com", "api.example.com", True),
    ("api.example.com.", "api.example.com", True),
    ("api.example.com", "x.api.example.com", False),
    ("api.example.com", "api.example.com.evil.org", False),
    ("*.example.com", "a.example.com", True),
    ("*.example.com", "a.b.example.com", True),
    ("*.example.com", "example.com", False),
    ("*.example.com", "evilexample.com", False),
    ("*.example.com", "a.example.com.evil.org", False),
    ("8.8.8.8", "8.8.8.8", True),
    ("[2606:4700:0::1111]", "[2606:4700::1111]", True),
    ("user.github.io", "user.github.io", True),
    ("*.example.co.uk", "a.example.co.uk", True),
]


@pytest.mark.parametrize(("pattern", "host", "matches"), MATCHES)
def test_a_pattern_matches_whole_labels(pattern: str, host: str, matches: bool) -> None:
    assert HostPattern.parse(pattern).matches(host) is matches


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("*", "bare"),
        ("*.", "1 to 253"),
        ("*.com", "public suffix"),
        ("*.co.uk", "strangers"),
        ("*.com.au", "strangers"),
        ("*.github.io", "strangers"),
        ("*.amazonaws.com", "strangers"),
        ("*.nip.io", "strangers"),
        ("*.a.run.app", "strangers"),
        ("*.us-east-1.amazonaws.com", "strangers"),
        ("*.s3.eu-west-1.amazonaws.com", "strangers"),
        ("*.z13.web.core.windows.net", "strangers"),
        ("*.westeurope.azurecontainer.io", "strangers"),
        ("*.uc.r.appspot.com", "strangers"),
        ("*.r2.cloudflarestorage.com", "strangers"),
        ("*.hf.space", "strangers"),
        ("*.internal", "public suffix"),
        ("a.*.com", "first label"),
        ("*a.example.com", "first label"),
        ("**.example.com", "first label"),
        ("*.8.8.8.8", "addresses"),
        ("https://example.com", "no scheme"),
        ("example.com/path", "no path"),
        ("user@example.com", "host alone"),
        ("example.com:0", "port"),
        ("example.com:http", "port"),
        ("example.com:", "port"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("", "must be a host"),
        (" example.com", "spaces"),
        ("exa mple.com", "labels"),
        ("localhost", "this host"),
        ("metadata.google.internal", "metadata"),
        ("127.1", "a.b.c.d"),
        ("intranet", "single label"),
    ],
)
def test_a_pattern_that_is_not_taken_says_why(pattern: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        HostPattern.parse(pattern)


def test_a_pattern_keeps_its_port_and_prints_itself() -> None:
    pattern = HostPattern.parse("*.Example.com:8443")
    assert (pattern.host, pattern.wildcard, pattern.port) == ("example.com", True, 8443)
    assert str(pattern) == "*.example.com:8443"
    assert HostPattern.parse("[2606:4700::1]:443").port == 443
    assert HostPattern.parse("[2606:4700::1]").port is None


GLOBS = [
    ("/", "/", True),
    ("/", "/a", False),
    ("/a", "/a", True),
    ("/a", "/a/", False),
    ("/a", "/A", False),
    ("/a/*", "/a/b", True),
    ("/a/*", "/a/b/c", False),
    ("/a/*", "/a/", False),
    ("/a/*/c", "/a/b/c", True),
    ("/a/**", "/a", True),
    ("/a/**", "/a/", True),
    ("/a/**", "/a/b/c", True),
    ("/a/**", "/ab", False),
    ("/**", "/", True),
    ("/**/c", "/c", True),
    ("/**/c", "/a/b/c", True),
    ("/**/c/**/e", "/a/c/d/e", True),
    ("/**/c/**/e", "/a/c/d", False),
    ("/*.json", "/a.json", True),
    ("/*.json", "/a.json/b", False),
    ("/v*/x*y", "/v1/xy", True),
    ("/v*/x*y", "/v1/xz", False),
    ("/a.b", "/axb", False),
]


@pytest.mark.parametrize(("glob", "path", "matches"), GLOBS)
def test_a_glob_matches_whole_segments(glob: str, path: str, matches: bool) -> None:
    assert PathGlob.parse(glob).matches(path) is matches


@pytest.mark.parametrize(
    "path", ["/admin/x", "//admin/x", "/admin//x", "/admin;a=b/x", "/admin;/x;c", "/admin%3Ba/x"]
)
def test_a_denied_path_is_met_however_a_server_may_read_it(path: str) -> None:
    assert PathGlob.parse("/admin/**").touches(path)


@pytest.mark.parametrize("path", ["/public;x/y", "/public%3Bx/y", "//public/y", "/x/public/y"])
def test_an_allowed_path_lies_within_however_a_server_may_read_it(path: str) -> None:
    assert not PathGlob.parse("/public/**").matches(path)


@pytest.mark.parametrize(
    "glob", ["a", "", "/a**", "/a/***", "/a b", "/a?b", "/a\\b", "/a/../b", "/%41", "/é", "/a%2fb"]
)
def test_a_glob_that_is_not_taken_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        PathGlob.parse(glob)


def test_no_path_makes_a_glob_slow() -> None:
    glob = PathGlob.parse("/" + "/".join(["**", "a*a*a*a*b"] * 20))
    began = time.perf_counter()
    assert not glob.matches("/" + "/".join(["a" * 30] * 250))
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("/*" + "a" * 900 + "b", "/" + "a" * 8190),
        ("/*" + "a" * 900 + "b*", "/" + "a" * 8190),
        ("/*" + "ab" * 450 + "*b*c", "/" + "ab" * 4095),
        ("/**" + "/a" * 62 + "/b", "/a" * 4096),
    ],
)
def test_the_longest_path_does_not_make_the_longest_literal_slow(glob: str, path: str) -> None:
    parsed = PathGlob.parse(glob)
    best = min(timeit.repeat(lambda: parsed.matches(path), number=1, repeat=3))
    assert not parsed.matches(path)
    assert best < 0.2


def test_a_glob_has_a_bounded_number_of_segments() -> None:
    assert PathGlob.parse("/a" * 64)
    with pytest.raises(ValueError, match="64 segments"):
        PathGlob.parse("/a" * 65)


SEGMENT = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "*b", "a*b", "*ab*b", "a*a"])


@given(
    st.lists(SEGMENT, min_size=1, max_size=5), st.lists(st.sampled_from(["a", "b", "ab", "aab"]), max_size=6)
)
def test_a_glob_means_what_its_regular_expression_means(glob: list[str], path: list[str]) -> None:
    pieces = [
        r"(?:/[^/]*)*" if s == "**" else "/[^/]+" if s == "*" else "/" + s.replace("*", "[^/]*") for s in glob
    ]
    text = "/" + "/".join(path)
    assert PathGlob.parse("/" + "/".join(glob)).matches(text) is bool(re.fullmatch("".join(pieces), text))
