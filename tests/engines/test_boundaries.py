"""Doors that stay shut, read off the source of the whole package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import sandbox_server

PACKAGE = Path(sandbox_server.__file__).parent
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
}


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every name, attribute and plain string of a module, docstrings aside."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0]) for node in ast.walk(tree) if isinstance(node, documented) and node.body}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if id(node) in docstrings and isinstance(child, ast.Constant):
                child.value = ""
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_scan_sees_the_code() -> None:
    assert "remove_container" in set(names_in(SOURCES["engines/docker/container.py"]))
    assert "docker" in imports_of(SOURCES["engines/docker/client.py"])


def test_the_archive_interface_is_never_called() -> None:
    forbidden = re.compile(r"(get|put)_archive|/archive\b|docker cp")
    assert forbidden.search("/v1.41/containers/x/archive?path=/")
    found = {path for path, tree in SOURCES.items() if any(map(forbidden.search, names_in(tree)))}
    assert found == set()


def test_docker_is_imported_by_its_engine_alone() -> None:
    users = {path for path, tree in SOURCES.items() if "docker" in imports_of(tree)}
    assert users
    assert {path for path in users if not path.startswith("engines/docker/")} == set()


def test_archives_are_never_unpacked_on_the_host() -> None:
    forbidden = {"extractall", "unpack_archive", "extract"}
    found = {
        path for path, tree in SOURCES.items() if imports_of(tree) & {"tarfile", "zipfile", "shutil"}
        and forbidden & set(names_in(tree))
    }  # fmt: skip
    assert found == set()


def test_no_command_goes_through_a_shell() -> None:
    calls = {
        path
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "shell"
    }
    assert calls == set()
    assert {
        p
        for p, tree in SOURCES.items()
        if {"system", "popen"} & set(names_in(tree)) and "os" in imports_of(tree)
    } == set()
