"""Names of packages: what package managers would take for a place, a flag or a file is none."""

# ruff: noqa: E501 - lists of names

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.guards.packages import LONGEST, MOST, Ecosystem, package_name, problems


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("six", "six"),
        ("Six==1.17.0", "six"),
        ("ruamel.yaml", "ruamel-yaml"),
        ("uvicorn[standard]>=0.30,<1", "uvicorn"),
        ("a [b, c] ~= 1.0 , != 1.0.3", "a"),
        ("numpy==2.*", "numpy"),
        ("x==1!2.0+local.1", "x"),
    ],
)
def test_python_packages_go_by_name_extras_and_versions(text: str, name: str) -> None:
    assert package_name(text, "pip") == name


@pytest.mark.parametrize(
    "text",
    [
        "left-pad", "left-pad@1.3.0", "left-pad@^1.3.0", "left-pad@~1", "left-pad@1.x || >=2.5.0 <3", "left-pad@latest",
        "left-pad@1.2.3 - 2.3.4", "left-pad@1.0.0-beta.1", "left-pad@*",
    ],
)  # fmt: skip
def test_npm_packages_go_by_name_and_range(text: str) -> None:
    assert package_name(text, "npm") == "left-pad"


def test_npm_packages_may_have_a_scope() -> None:
    assert package_name("@types/node@20", "npm") == "@types/node"


HOSTILE = [
    "", " ", " six", "six ", "six\n", "six\r\n--index-url=x", "six --index-url http://evil.example/", "-rfile", "--help",
    "-e.", ".", "..", "./six", "/workspace/six", "~/six", "six @ https://evil.example/six.whl", "six@./six",
    "git+https://evil.example/six", "https://evil.example/six.whl", "file:///etc/passwd", "six; python_version<'4'",
    "six==1.0; x", "six[a", "six[../x]", "six==", "six===1", "six==1 --hash=x", "six$(id)", "six`id`", "six|id", "s\0x",
    "six-1.0-py3-none-any.whl", "six.zip", "six.tar.gz", "x.tgz", "s\u0456x", "six==1.0\u2028x", "%73ix", "six\\x",
    "C:six", "six:1", "@six", "@a/b/c", "a/b", "github:a/b", "x@npm:y", "x@file:y", "x@git+ssh://y", "x@..", "x@.",
    "x@~/y", "x@./y.tgz", "x@y.tgz", "x@1.0.0-x.tgz", "x@1.0.0-X.TAR", "x@^1 || 1.0.0+y.tar.gz", "six==1.0.tar.gz",
    "six==1.0.zip", "six[x]>=1,<2.whl", "x@https://y", "x@a/b", "x@1 --registry=y", "x@^1 ; id", "x@-1", "x@@y",
    "x" * (LONGEST + 1),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("ecosystem", ["pip", "npm"])
def test_everything_else_is_refused(text: str, ecosystem: Ecosystem) -> None:
    with pytest.raises(ValueError, match="no URL, path or option"):
        package_name(text, ecosystem)


@given(st.text(max_size=40), st.sampled_from(["pip", "npm"]))
def test_what_is_accepted_can_be_no_place_and_no_option(text: str, ecosystem: Ecosystem) -> None:
    try:
        name = package_name(text, ecosystem)
    except ValueError:
        return
    assert name
    assert text.isascii()
    assert not text.startswith(("-", ".", "~"))
    assert not any(character in text for character in ":\\;'\"`$\n\0#?")
    assert "/" not in text or (ecosystem == "npm" and text.startswith("@") and text.count("/") == 1)


def test_a_list_is_bounded_and_each_mistake_has_its_place() -> None:
    assert list(problems(["six"] * MOST, "pip")) == []
    (too_many,) = problems(["six"] * (MOST + 1), "pip")
    assert str(MOST) in too_many
    (wrong,) = problems(["six", "./six"], "pip")
    assert wrong.startswith("packages[1]: must be a name")
