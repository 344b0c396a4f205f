"""Names of packages as a caller may write them: a name and versions, never a place to get it from.

What a package manager would read as a URL, a path, a flag, a file or another package's alias is refused by a
grammar that has no words for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

Ecosystem = Literal["pip", "npm"]

MOST: Final = 32
LONGEST: Final = 200

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EXTRAS = rf"\[ ?{_NAME}(?: ?, ?{_NAME})* ?\]"
_CLAUSE = r"(?:~=|==|!=|<=|>=|<|>) ?[A-Za-z0-9][A-Za-z0-9.!+_-]*(?:\.\*)?"
_PIP: Final = re.compile(rf"(?P<name>{_NAME})(?: ?{_EXTRAS})?(?: ?{_CLAUSE}(?: ?, ?{_CLAUSE})*)?")

_PART = r"[a-z0-9_][a-z0-9._-]*"
_VERSION = r"(?:[0-9]+|[xX*])(?:\.(?:[0-9]+|[xX*])){0,2}(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
_COMPARED = rf"(?:\^|~|>=|<=|>|<|=)? ?{_VERSION}"
_RANGE = rf"{_COMPARED}(?: (?:\|\| |- )?{_COMPARED})*"
_TAG = r"[A-Za-z][A-Za-z0-9_-]*"
_NPM: Final = re.compile(rf"(?P<name>(?:@{_PART}/)?{_PART})(?:@(?:{_RANGE}|{_TAG}))?")

# A package manager takes a word, or npm a version, that ends so for a file that may lie around.
_FILES: Final = (".whl", ".zip", ".egg", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz", ".txz")

_FORMS: Final = {
    "pip": "a name, extras and versions, as in 'six', 'six==1.17.0' or 'uvicorn[standard]>=0.30,<1'",
    "npm": "a name and a range, as in 'left-pad', 'left-pad@^1.3.0' or '@types/node@20'",
}


def package_name(text: str, ecosystem: Ecosystem) -> str:
    """The name in `text`, as its index compares it. Raises ValueError saying what it should look like."""
    pattern = _PIP if ecosystem == "pip" else _NPM
    found = pattern.fullmatch(text) if len(text) <= LONGEST else None
    if found is None or text.lower().endswith(_FILES) or found["name"].lower().endswith(_FILES):
        raise ValueError(f"must be {_FORMS[ecosystem]}; no URL, path or option")
    return normal_name(found["name"]) if ecosystem == "pip" else found["name"]


def normal_name(name: str) -> str:
    """Of a Python package: an index takes these for the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def problems(wanted: Sequence[str], ecosystem: Ecosystem) -> Iterable[str]:
    """What is wrong with a list of packages, each beginning with its place."""
    if len(wanted) > MOST:
        yield f"packages: {len(wanted)} are more than the {MOST} allowed"
        return
    for index, text in enumerate(wanted):
        try:
            package_name(text, ecosystem)
        except ValueError as error:
            yield f"packages[{index}]: {error}"
