"""One document out of several files: `extends` puts a shipped preset under the policy, `include` adds
sibling files to it. Every value keeps the place where it is written."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path as FilePath
from typing import Final

from sandbox_server.policy.document import Document, Malformed, Mark, Path, parse

Reader = Callable[[str], bytes]
"""A file's bytes by its name. Raises OSError."""

_PIECES: Final = frozenset({"schema", "roles", "egress", "principals", "resources", "tests"})
"""What an included file may hold: things that stand beside each other. The rest is said once."""
_MOST_FILES: Final = 64
_DEEPEST: Final = 4


class Sources:
    """Where the other files come from. `siblings` reads by plain names, `presets` by theirs."""

    def __init__(self, siblings: Reader | None, presets: Reader, known: Iterable[str]) -> None:
        self._siblings = siblings
        self._presets = presets
        self._known = sorted(known)

    def gather(self, raw: bytes, file: str, depth: int = 0) -> Document:
        """Raises Malformed, whose mark names the file."""
        document = parse(raw, file)
        document = self._with_included(document)
        data = document.data
        if not isinstance(data, dict) or not isinstance(data.get("extends"), str):
            return document
        mark = document.mark(("extends",))
        if depth == _DEEPEST:
            raise Malformed("presets extend each other too deep", mark, ("extends",))
        base = self.gather(self._preset(data["extends"], mark), f"preset {data['extends']}", depth + 1)
        # Its tests hold for the preset as it is shipped, not for what becomes of it here.
        return _without(_layered(_without(base, "tests"), document), "extends")

    def _preset(self, name: str, mark: Mark) -> bytes:
        if name not in self._known:
            near = difflib.get_close_matches(name[:80], self._known, n=1)
            guess = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(self._known)}"
            raise Malformed(f"unknown preset, {guess}", mark, ("extends",))
        try:
            return self._presets(name)
        except OSError as error:
            raise Malformed(f"can't be read: {error.strerror or error}", mark, ("extends",)) from None

    def _with_included(self, document: Document) -> Document:
        data = document.data
        names = data.get("include") if isinstance(data, dict) else None
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            return document
        if len(names) > _MOST_FILES:
            raise Malformed(f"more than {_MOST_FILES} files", document.mark(("include",)), ("include",))
        for name in sorted(names):
            place = ("include", names.index(name))
            document = _joined(document, self._sibling(name, document.mark(place), place))
        return _without(document, "include")

    def _sibling(self, name: str, mark: Mark, place: Path) -> Document:
        if "/" in name or "\0" in name or name.startswith(".") or FilePath(name).name != name:
            raise Malformed("must be a file in the same directory", mark, place)
        if not name.endswith((".yaml", ".yml")):
            raise Malformed("must be a .yaml file", mark, place)
        if self._siblings is None:
            raise Malformed("there is no directory to include files from", mark, place)
        try:
            raw = self._siblings(name)
        except OSError as error:
            raise Malformed(f"can't be read: {error.strerror or error}", mark, place) from None
        return parse(raw, name)


def _joined(base: Document, piece: Document) -> Document:
    """`base` and beside it what `piece` holds. The same thing in both is an error, not an override."""
    if not isinstance(base.data, dict) or not isinstance(piece.data, dict):
        raise Malformed("expected a mapping", piece.mark(()))
    joined = Document(base.data, dict(base.keys), dict(base.values))
    data = dict(base.data)
    for key, value in piece.data.items():
        if key not in _PIECES:
            what = f"does not belong into an included file, only {', '.join(sorted(_PIECES))} do"
            raise Malformed(what, piece.mark((key,), key=True), (key,))
        data[key] = _beside(joined, piece, (key,), data.get(key), value)
    return Document(data, joined.keys, joined.values)


def _beside(into: Document, piece: Document, path: Path, ours: object, theirs: object) -> object:
    if ours is None or (path == ("schema",) and ours == theirs):
        _note(into, path, piece, path, theirs)
        return theirs
    if isinstance(ours, tuple) and isinstance(theirs, tuple) and len(path) == 1:
        for index, item in enumerate(theirs):
            _note(into, (*path, len(ours) + index), piece, (*path, index), item)
        return ours + theirs
    within = path in (("roles",), ("egress",), ("egress", "profiles"))
    if isinstance(ours, dict) and isinstance(theirs, dict) and within:
        both = dict(ours)
        for key, value in theirs.items():
            both[key] = _beside(into, piece, (*path, key), ours.get(key), value)
            into.keys.setdefault((*path, key), piece.mark((*path, key), key=True))
        return both
    first = into.mark(path, key=True)
    place = f"{first.file}:{first.line}" if first.file else f"line {first.line}"
    raise Malformed(f"defined twice, first in {place}", piece.mark(path, key=True), path)


def _layered(base: Document, over: Document) -> Document:
    """`over` on `base`: mappings key by key, `deny` lists one after the other, all else replaced."""
    layered = Document(None, dict(base.keys), dict(base.values))
    data = _over(layered, over, (), base.data, over.data)
    return Document(data, layered.keys, layered.values)


def _over(into: Document, over: Document, path: Path, below: object, above: object) -> object:
    if isinstance(below, dict) and isinstance(above, dict):
        merged = dict(below)
        for key, value in above.items():
            place = (*path, key)
            into.keys[place] = over.mark(place, key=True)
            merged[key] = _over(into, over, place, below.get(key), value)
        into.values[path] = over.mark(path)
        return merged
    if isinstance(below, tuple) and isinstance(above, tuple) and path[-1:] == ("deny",):
        for index, item in enumerate(above):
            _note(into, (*path, len(below) + index), over, (*path, index), item)
        return below + above
    _note(into, path, over, path, above)
    return above


def _note(into: Document, at: Path, source: Document, path: Path, value: object) -> None:
    """Carry over where `value` and all in it stand."""
    into.values[at] = source.mark(path)
    if path in source.keys:
        into.keys[at] = source.keys[path]
    if isinstance(value, dict):
        for key, inner in value.items():
            _note(into, (*at, key), source, (*path, key), inner)
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            _note(into, (*at, index), source, (*path, index), inner)


def _without(document: Document, key: str) -> Document:
    data = {name: value for name, value in document.data.items() if name != key}  # type: ignore[attr-defined]
    return Document(data, document.keys, document.values)
