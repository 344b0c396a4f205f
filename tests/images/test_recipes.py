"""A tag follows from the inputs, all of them and nothing else."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from sandbox_server.errors import ConfigError
from sandbox_server.images.recipes import NAMES, recipe, tag_of
from sandbox_server.shipped import shipped


def tags(root: Path) -> dict[str, str]:
    return {name: tag_of(name, root) for name in NAMES}


def changed_by(copied: Path, file: str) -> set[str]:
    before = tags(copied)
    with (copied / file).open("a") as content:
        content.write("\n# changed\n")
    after = tags(copied)
    return {name for name in NAMES if before[name] != after[name]}


@pytest.mark.parametrize(
    "file", ["base/Dockerfile", "runner/runner.py", "runner/repl.js", "runner/repl.sh", "sandbox.Dockerfile"]
)
def test_a_change_to_what_all_share_makes_every_image_stale(copied: Path, file: str) -> None:
    assert changed_by(copied, file) == set(NAMES)


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("python/Dockerfile", {"python"}),
        ("python/requirements.lock", {"python"}),
        ("python/fontcache.py", {"python"}),
        ("node/Dockerfile", {"node"}),
        ("shell/Dockerfile", {"shell", "python", "polyglot"}),  # which stand on it
        ("polyglot/go-program", {"polyglot"}),
    ],
)
def test_a_change_makes_only_what_stands_on_it_stale(copied: Path, file: str, stale: set[str]) -> None:
    assert changed_by(copied, file) == stale


def test_what_documents_the_runner_makes_no_image_stale(copied: Path) -> None:
    assert changed_by(copied, "runner/README.md") == set()


def test_a_new_runner_leaves_the_tools_below_it_alone(copied: Path) -> None:
    before = recipe("python", copied).parent_tag
    assert changed_by(copied, "runner/runner.py") == set(NAMES)
    assert recipe("python", copied).parent_tag == before


def test_a_renamed_input_changes_the_tag(copied: Path) -> None:
    before = tag_of("node", copied)
    (copied / "runner" / "runner.py").rename(copied / "runner" / "other.py")
    assert tag_of("node", copied) != before


def test_where_the_files_are_and_when_they_were_written_does_not_matter(copied: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(copied, tmp_path / "elsewhere"))
    for path in moved.rglob("*"):
        os.utime(path, (0, 0))
    (moved / "runner" / "runner.py").chmod(0o755)
    assert tags(moved) == tags(copied) == {name: tag_of(name) for name in NAMES}


def test_a_tag_names_the_image_and_twelve_digits_of_its_revision() -> None:
    for name in NAMES:
        assert re.fullmatch(rf"mcp-sandbox/{name}:[0-9a-f]{{12}}", tag_of(name))


@pytest.mark.parametrize("name", ["", "python:latest", "debian", "../python", "python-tools"])
def test_no_other_image_can_be_named(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no image"):
        tag_of(name)


LOCKS = [
    shipped("images") / "python" / "requirements.lock",
    *(shipped("images").parent / "requirements").glob("*.txt"),
]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.name))
def test_a_lock_names_no_address_and_every_package_has_a_version_and_hashes(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE)
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
