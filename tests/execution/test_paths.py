"""Paths that callers name: what passes is a plain path below the workspace."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.errors import InvalidRequest
from sandbox_server.execution.paths import MAX_PATH, READABLE, readable_path, workspace_path

PARTS = st.sampled_from(
    ["a", "b.csv", "..", ".", "", "/", "workspace", "/workspace/", "\0", "ü", "~", "…", " "]
)


@given(st.one_of(st.text(max_size=60), st.lists(PARTS, max_size=6).map("/".join)))
def test_whatever_passes_is_relative_without_dots_and_stays_the_same(path: str) -> None:
    try:
        clean = workspace_path(path)
    except InvalidRequest:
        return
    parts = PurePosixPath(clean).parts
    assert parts
    assert not clean.startswith("/")
    assert ".." not in parts
    assert "." not in clean.split("/")
    assert "" not in clean.split("/")
    assert workspace_path(clean) == clean


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a.csv", "a.csv"),
        ("./a/./b//c", "a/b/c"),
        ("/workspace/data/x", "data/x"),
        ("workspace/x", "workspace/x"),
        ("ünï/日本.txt", "ünï/日本.txt"),
        ("with space", "with space"),
        ("-rf", "-rf"),
        ("~/.bashrc", "~/.bashrc"),
        ("...", "..."),
    ],
)
def test_plain_paths_pass(path: str, clean: str) -> None:
    assert workspace_path(path) == clean


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/",
        "/workspace",
        "/workspace/",
        "/workspace//etc/passwd",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "dir/",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "a\u202eb",
        "\ud800",
        "x" * 256,
        "ü" * 128,
        "/".join(["a" * 200] * 6),
    ],
)
def test_others_are_the_callers_mistake_and_shown_without_control_characters(path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        workspace_path(path)
    assert refused.value.message.isprintable()
    assert refused.value.hint


def test_the_longest_path_passes() -> None:
    path = "/".join(["a" * 255] * 4)
    assert len(path) == MAX_PATH - 1
    assert workspace_path(path) == path


ANY = st.one_of(
    st.text(max_size=60),
    st.lists(PARTS, max_size=6).map("/".join),
    st.lists(PARTS, max_size=6).map(lambda parts: "/tmp/" + "/".join(parts)),
)


@given(ANY)
def test_what_may_be_read_is_absolute_and_in_a_root(path: str) -> None:
    try:
        clean = readable_path(path)
    except InvalidRequest:
        return
    parts = clean.split("/")[1:]
    assert any(clean == root or clean.startswith(root + "/") for root in READABLE)
    assert not {"", ".", ".."} & set(parts)
    assert readable_path(clean) == clean


@given(ANY)
def test_what_may_be_written_may_be_read_in_the_same_place(path: str) -> None:
    try:
        relative = workspace_path(path)
    except InvalidRequest:
        return
    assert readable_path(path) == f"/workspace/{relative}"


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        (".", "/workspace"),
        ("./", "/workspace"),
        ("/workspace", "/workspace"),
        ("/workspace/", "/workspace"),
        ("a//b/.", "/workspace/a/b"),
        ("workspace", "/workspace/workspace"),
        ("tmp/x", "/workspace/tmp/x"),
        ("/tmp", "/tmp"),
        ("/tmp/./x", "/tmp/x"),
        ("//tmp/x", "/tmp/x"),
    ],
)
def test_plain_paths_may_be_read(path: str, clean: str) -> None:
    assert readable_path(path) == clean


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "..",
        "/tmp/..",
        "/tmp/../etc",
        "/etc/passwd",
        "/workspace_evil",
        "/tmpx",
        "a/../b",
        "/proc/self/root",
        "a\0",
    ],
)
def test_others_may_not_be_read(path: str) -> None:
    with pytest.raises(InvalidRequest):
        readable_path(path)
