"""The manual is true: its commands run, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sandbox_server.audit.files import LogFiles
from sandbox_server.policy.loader import load_policy
from sandbox_server.shipped import shipped

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SERVER = re.compile(r"^(?:\.venv/bin/)?sandbox-server (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documented() -> list[str]:
    blocks = [body for page in PAGES for _, body in FENCED.findall(page.read_text())]
    return sorted({found.partition("  ")[0] for body in blocks for found in SERVER.findall(body)})


COMMANDS = [each for each in documented() if each.startswith(("policy", "audit"))]
OTHERS = [each for each in documented() if each not in COMMANDS]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with what the manual's commands name, and a state directory with a decision log."""
    presets = shipped("policies")
    (tmp_path / "policies").symlink_to(presets)
    shutil.copy(presets / "team.yaml", tmp_path / "my.yaml")
    shutil.copy(presets / "team.test.yaml", tmp_path)
    shutil.copy(presets / "airgapped.yaml", tmp_path / "old.yaml")
    shutil.copy(presets / "airgapped.test.yaml", tmp_path)
    shutil.copy(presets / "strict.yaml", tmp_path / "new.yaml")
    shutil.copy(presets / "strict.test.yaml", tmp_path)
    claims = {"iss": "https://idp.example.com", "sub": "ann", "groups": ["staff"]}
    (tmp_path / "claims.json").write_text(json.dumps(claims))
    log = tmp_path / "state" / "decisions" / "instance-1"
    files = LogFiles(log, stamp=dict, max_bytes=10_000)
    files.open()
    files.append([{"kind": "outcome", "tool": "code_execution"}])
    files.close()
    (tmp_path / "LOG").symlink_to(log)
    return tmp_path


def run(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command.partition(" > ")[0], comments=True)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SANDBOX_")}
    return subprocess.run(
        [sys.executable, "-m", "sandbox_server", *words],
        cwd=place,
        env={**environ, "SANDBOX_SERVER_STATE_DIR": str(place / "state"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


# What the manual's examples answer: allowed and fine is 0, denied and different is 1.
ANSWERS = {"explain --tool": (1, "not granted"), "policy diff": (1, "loses"), "audit verify": (0, "holds")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_manual_about_policies_runs_as_it_is_written(place: Path, command: str) -> None:
    done = run(place, command)
    status, said = next((ANSWERS[each] for each in ANSWERS if each in command), (0, ""))
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout
    assert done.stdout


@pytest.mark.parametrize("command", OTHERS)
def test_another_command_of_the_manual_has_the_options_that_it_is_written_with(
    place: Path, command: str
) -> None:
    words = shlex.split(command, comments=True)
    names = [each for each in words[:2] if re.fullmatch("[a-z]+", each)]
    told = (
        run(place, " ".join([*names, "--help"])) if names[0] == "images" else run(place, f"{names[0]} --help")
    )
    assert told.returncode == 0, told.stderr
    for option in (each for each in words if each.startswith("--")):
        assert option in told.stdout


def test_the_manual_has_commands_of_each_kind() -> None:
    kinds = {" ".join(each.split()[:2]) for each in COMMANDS}
    assert kinds >= {
        f"policy {each}" for each in ("lint", "test", "explain", "show", "diff", "learn", "schema")
    }
    assert "audit verify" in kinds
    assert {each.split()[0] for each in OTHERS} >= {"serve", "doctor"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert target in targets


def test_the_tools_that_the_readme_calls_granted_are_those_of_the_default_policy() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    granted = {name for name, default in rows if default.startswith("granted")}
    default = yaml.safe_load((shipped("policies") / "default.yaml").read_text())
    assert granted == set(default["roles"]["basic"]["tools"]["allow"])
    assert {name for name, _ in rows} - granted == {"web_api", "database"}


def test_the_manual_lists_every_preset() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| ", (ROOT / "docs" / "policy.md").read_text(), re.MULTILINE)
    presets = {path.stem for path in shipped("policies").glob("*.yaml") if not path.stem.endswith(".test")}
    assert presets <= set(listed)


def test_the_policy_in_the_page_about_packages_loads(tmp_path: Path) -> None:
    blocks = FENCED.findall((ROOT / "docs" / "packages.md").read_text())
    (text,) = (body for kind, body in blocks if kind == "yaml")
    file = tmp_path / "policy.yaml"
    principals = "principals: [{match: {any: everyone}, roles: [analyst]}]\n"
    file.write_text("schema: sandbox-policy/v1\n" + principals + text)
    assert set(load_policy(file).file.egress.profiles) == {"packages"}


def test_the_settings_in_the_manual_are_those_that_the_server_reads() -> None:
    read = set(re.findall(r'"(SANDBOX_SERVER_\w+)"', (ROOT / "sandbox_server" / "config.py").read_text()))
    table = (ROOT / "docs" / "README.md").read_text()
    assert set(re.findall(r"^\| `(SANDBOX_SERVER_\w+)`", table, re.MULTILINE)) == read


def test_the_code_map_is_that_of_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 120
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", text, re.MULTILINE)
    named = [re.findall(r"`([\w./]+)`", where) for where, _ in rows]
    for (_, what), places in zip(rows, named, strict=True):
        first = (ROOT / places[0]).parent if (ROOT / places[0]).is_file() else ROOT / places[0]
        homes = [ROOT, first, first.parent, *(ROOT / each for each in places)]
        for name in [*places, *re.findall(r"`([\w/]+(?:\.py|/))`", what)]:
            assert any((home / name).exists() for home in homes), name
    packages = {path.parent.name for path in ROOT.glob("sandbox_server/*/__init__.py")}
    assert packages <= {Path(each).parts[1] for places in named for each in places if "/" in each[:-1]} | {
        "security",
        "observe",
    }
