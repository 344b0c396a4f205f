from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.guards.files import FileIndex, FileRule, FileRules, Glob, canonical


def names(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])


def rules(allow: list[str], deny: list[str]) -> FileRules:
    def made(kind: str, globs: list[str]) -> FileIndex:
        everything = frozenset({"read", "write"})
        return FileIndex(FileRule(Glob.parse(g), everything, f"{kind}[{i}]") for i, g in enumerate(globs))

    return FileRules(made("allow", allow), made("deny", deny))


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("/workspace/**", ["/workspace", "/workspace/a", "/workspace/a/b"], ["/workspaces", "/tmp"]),
        ("**/.git/hooks/**", ["/w/.git/hooks", "/.git/hooks/x", "/a/b/.git/hooks/c/d"],
         ["/w/.git", "/w/git/hooks"]),
        ("/w/*.py", ["/w/a.py", "/w/.py"], ["/w/a.pyc", "/w/d/a.py"]),
        ("/w/?", ["/w/a"], ["/w/ab", "/w"]),
        ("/w/**/x", ["/w/x", "/w/a/b/x"], ["/w/a/b", "/x"]),
        ("/W/a", ["/W/a"], ["/w/a"]),
    ],
)  # fmt: skip
def test_globs_match_whole_paths(glob: str, matching: list[str], others: list[str]) -> None:
    pattern = Glob.parse(glob)
    assert [path for path in matching + others if pattern.matches(names(path))] == matching


def test_deny_wins_and_nothing_is_allowed_by_itself() -> None:
    both = rules(["/w/**"], ["/w/secret/**"])
    assert both.check("read", "/w/a") is None
    assert both.check("read", "/w/secret/a") == "deny[0]"
    assert both.check("read", "/other") == "default"
    assert both.check("list", "/w/a") == "default"


@pytest.mark.parametrize(
    ("path", "rule"),
    [("/w", "deny[0]"), ("/w/keep", "deny[0]"), ("/w/other", None), ("/w/keep/me/deep", "deny[0]")],
)
def test_what_takes_in_a_whole_directory_is_denied_if_anything_in_it_is(path: str, rule: str | None) -> None:
    assert rules(["/w/**"], ["/w/keep/me/**"]).check("write", path, tree=True) == rule
    assert rules(["/w/**"], ["**/keep"]).check("write", path, tree=True) == "deny[0]"


@pytest.mark.parametrize(
    "text", ["", "w", "*", "/a//b", "/a/./b", "/../a", "/a**", "/a/b**c", "/a\0", "/" + "a" * 600]
)
def test_a_glob_with_two_meanings_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|stands alone|printable"):
        Glob.parse(text)


@pytest.mark.parametrize(
    ("path", "absolute"),
    [("a", "/workspace/a"), (".", "/workspace"), ("./a//b/", "/workspace/a/b"), ("/tmp//x", "/tmp/x"),
     ("/", "/")],
)  # fmt: skip
def test_a_path_has_one_form(path: str, absolute: str) -> None:
    assert canonical(path) == absolute


@pytest.mark.parametrize("path", ["..", "a/../b", "/workspace/..", "a\0", "a\nb", "a\u202eb"])
def test_a_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"not allowed|printable"):
        canonical(path)


def test_a_glob_made_to_take_long_does_not() -> None:
    """Backtracking would need some 2**60 steps."""
    assert not Glob.parse("/" + "*a" * 60 + "b").matches(("a" * 255,))
    assert not Glob.parse("/**/" + "**/x/" * 30 + "y").matches(("x",) * 100)


SEGMENT = st.text("ab*?", min_size=1, max_size=4).filter(lambda s: "**" not in s)
PATTERN = st.lists(st.one_of(SEGMENT, st.just("**")), min_size=1, max_size=5)
PATH = st.lists(st.text("ab", min_size=1, max_size=3), max_size=5)


def slow(parts: list[str], path: list[str]) -> bool:
    """By the definition."""
    if not parts:
        return not path
    if parts[0] == "**":
        return slow(parts[1:], path) or (bool(path) and slow(parts, path[1:]))
    return bool(path) and letters(parts[0], path[0]) and slow(parts[1:], path[1:])


def letters(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return letters(pattern[1:], name) or (bool(name) and letters(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and letters(pattern[1:], name[1:])


@given(PATTERN, PATH)
def test_matching_is_what_the_words_say(parts: list[str], path: list[str]) -> None:
    glob = Glob.parse("/" + "/".join(parts))
    assert glob.matches(tuple(path)) == slow(parts, path)
    assert not glob.matches(tuple(path)) or tuple(path)[: len(glob.literal)] == glob.literal


@given(PATTERN, PATH, PATH)
def test_below_is_true_of_every_directory_that_holds_a_match(
    parts: list[str], path: list[str], more: list[str]
) -> None:
    glob = Glob.parse("/" + "/".join(parts))
    if more and glob.matches((*path, *more)):
        assert glob.below(tuple(path))
