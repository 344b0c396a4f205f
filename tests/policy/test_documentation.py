"""The policies that the documentation shows can be served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandbox_server.policy.loader import load_policy

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    pytest.param(text, id=f"{page.name}:{number}")
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    for number, text in enumerate(re.findall(r"^```yaml\n(schema:.*?)^```", page.read_text(), re.S | re.M))
]


def test_there_are_some() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_that_is_a_whole_policy_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    policy = load_policy(path)
    assert policy.file.roles
