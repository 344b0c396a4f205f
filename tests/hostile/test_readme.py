"""The table of README.md is true: each number has a test that says so, or a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
NUMBERS = set(range(1, 89))
LIFECYCLE = 79
"""From this number on some tests are elsewhere, beside what they test."""


def named_tests() -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for path in set(HERE.glob("test_*.py")) - set(HERE.glob("test_egress*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_"):
                words = ast.get_docstring(node) or ""
                if words.startswith("Beyond the list."):
                    continue
                numbers = re.match(r"([\d, ]+)\.", words)
                assert numbers, f"{node.name} names no number"
                for number in numbers[1].split(","):
                    found.setdefault(int(number), set()).add(node.name)
    return found


def test_every_row_of_the_way_out_has_its_tests() -> None:
    rows = re.findall(r"^\| ([E\d, ]+) \| [^|]+ \| (.+) \|$", (HERE / "README.md").read_text(), re.MULTILINE)
    rows = [(numbers, tests) for numbers, tests in rows if "E" in numbers]
    assert {int(each) for numbers, _ in rows for each in re.findall(r"\d+", numbers)} == set(range(1, 21))
    files = [*HERE.glob("test_egress*.py"), *(HERE.parent / "access" / "egress").glob("test_*.py")]
    written = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    for _, tests in rows:
        assert set(re.findall(r"`(test_\w+)`", tests)) <= written
        assert "`test_" in tests


def all_tests() -> set[str]:
    found = set()
    for path in HERE.parent.rglob("test_*.py"):
        found |= set(re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return found


def test_every_number_has_its_tests_or_a_reason() -> None:
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", (HERE / "README.md").read_text(), re.MULTILINE)
    assert {int(number) for number, _ in rows} == NUMBERS
    tests = named_tests()
    assert tests.keys() <= NUMBERS
    for number, text in rows:
        named = set(re.findall(r"`(test_\w+)`", text))
        elsewhere = named - tests.get(int(number), set())
        assert tests.get(int(number), set()) <= named
        assert elsewhere <= all_tests() if int(number) >= LIFECYCLE else not elsewhere
        assert len(text) > 5
