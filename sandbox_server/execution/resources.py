"""What callers can read of what their runs have left: lists and pages, each caller's own only."""

from __future__ import annotations

from typing import NoReturn

from pydantic import ValidationError

from sandbox_server.errors import InvalidRequest, NotFound, SandboxLost
from sandbox_server.execution.api import Caller
from sandbox_server.execution.blobs import Blob
from sandbox_server.execution.file_reports import ReadReport
from sandbox_server.execution.file_rights import may_read
from sandbox_server.execution.models import Content, Found, Page, Resource
from sandbox_server.execution.pages import MOST_NEEDLE, text_page
from sandbox_server.execution.sandbox import Sandbox
from sandbox_server.execution.sessions import Sessions
from sandbox_server.execution.store import Store
from sandbox_server.execution.transfers import Transfer
from sandbox_server.execution.uris import FileUri, StreamUri, file_uri, parse, plain, shown, stream_uri
from sandbox_server.guards.files import FileRules
from sandbox_server.text import make_visible

DEFAULT_STREAM, MOST_STREAM = 32 * 1024, 256 * 1024
DEFAULT_FILE, MOST_FILE = 1024 * 1024, 2 * 1024 * 1024
READ_SECONDS = 20.0


class Resources:
    """Of the runs in `store` and the files in `sessions`."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store = store
        self._sessions = sessions

    def list(self, caller: Caller, rules: FileRules | None) -> list[Resource]:
        """Only of the caller's connection: one that was told of a resource can read it, see `read`."""
        found = []
        for deposit in self._store.of(caller.principal):
            if deposit.connection != caller.connection:
                continue
            for stream, blob in deposit.streams.items():
                found.append(Resource(stream_uri(deposit.id, stream), stream, blob.size))
            for path, blob in deposit.files.items():
                if may_read(plain(path), rules):
                    found.append(Resource(file_uri(deposit.id, path), shown(path), blob.size))
        for session in self._sessions.reachable(caller):
            for uri, each in session.artifacts.items():
                if may_read(plain(uri.removeprefix(file_uri(session.id, ""))), rules):
                    found.append(Resource(uri, each.path, each.size))
        return found

    async def read(self, uri: str, page: Page, caller: Caller, rules: FileRules | None) -> Content:
        """Raises InvalidRequest for a page that can't be, else NotFound: also for what `rules` deny."""
        owner, address = caller.principal, parse(uri)
        _check(page, is_stream=isinstance(address, StreamUri))
        if isinstance(address, StreamUri):
            return await self._stream(address, page, owner)
        if isinstance(address, FileUri) and may_read(plain(address.path), rules):
            return await self._file(address, page, owner)
        _not_found()

    async def _stream(self, uri: StreamUri, page: Page, owner: str) -> Content:
        deposit = self._store.find(owner, uri.run)
        blob = deposit.streams.get(uri.stream) if deposit else None
        if blob is None:
            _not_found()
        limit = page.limit or DEFAULT_STREAM
        if page.grep is not None:
            return await self._grep(blob, page.grep.encode(), page.offset, limit)
        data = await self._store.read(blob, page.offset, limit)
        if data is None:
            _not_found()
        data, after = text_page(data, page.offset, blob.size)
        return Content(data, page.offset, blob.size, after, is_stream=True)

    async def _grep(self, blob: Blob, needle: bytes, offset: int, limit: int) -> Content:
        matches = await self._store.search(blob, needle, offset, limit)
        if matches is None:
            _not_found()
        found = tuple(
            Found(each.offset, make_visible(each.text.decode("utf-8", "replace"))) for each in matches.found
        )
        return Content(b"", offset, blob.size, matches.next, found, is_stream=True)

    async def _file(self, uri: FileUri, page: Page, owner: str) -> Content:
        limit = page.limit or DEFAULT_FILE
        deposit = self._store.find(owner, uri.holder)
        if deposit is not None:
            blob = deposit.files.get(uri.path)
            data = await self._store.read(blob, page.offset, limit) if blob else None
            if blob is None or data is None:
                _not_found()
            return _file_page(data, page.offset, blob.size)
        session = self._sessions.living(uri.holder, owner)
        if session is None or session.sandbox is None:
            _not_found()
        try:
            data, size = await read_file(session.sandbox, uri.path, page.offset, limit)
        except (NotFound, SandboxLost):
            _not_found()
        return _file_page(data, page.offset, size)


async def read_file(sandbox: Sandbox, path: str, offset: int, length: int) -> tuple[bytes, int]:
    """At most `length` bytes of a regular file in a sandbox, and its size; also while code runs there.

    Raises NotFound if it can't be read, SandboxLost if the sandbox ended.
    """
    data = bytearray()

    async def sink(piece: bytes) -> None:
        data.extend(piece)

    request = {"op": "read", "path": plain(path), "offset": offset, "length": length}
    facts = await sandbox.transfer(Transfer(request, limit=length, sink=sink), READ_SECONDS)
    try:
        if facts and facts.get("ok") is True:
            return bytes(data), ReadReport.model_validate(facts).size
    except ValidationError:
        pass  # somebody in the sandbox has meddled with the report
    _not_found()


def _file_page(data: bytes, offset: int, size: int) -> Content:
    data, after = text_page(data, offset, size)
    return Content(data, offset, size, after if data else None)


def _check(page: Page, *, is_stream: bool) -> None:
    most = MOST_STREAM if is_stream else MOST_FILE
    if page.offset < 0 or page.offset >= 2**60:
        raise InvalidRequest(
            "offset must be a number of bytes from 0", hint="take the one that the last page names"
        )
    if page.limit is not None and not 1 <= page.limit <= most:
        raise InvalidRequest(f"limit must be from 1 to {most} bytes", hint="read the rest with further pages")
    if page.grep is None:
        return
    if not is_stream:
        raise InvalidRequest(
            "only output can be searched with grep", hint="run a program that searches the file"
        )
    needle = page.grep.encode("utf-8", "replace")
    if needle.decode() != page.grep or not 1 <= len(needle) <= MOST_NEEDLE or b"\n" in needle:
        raise InvalidRequest(
            f"grep must be a text of 1 to {MOST_NEEDLE} bytes in one line",
            hint="it is plain text, no pattern",
        )


def _not_found() -> NoReturn:
    raise NotFound(
        "there is no such resource",
        hint="it may have expired with its run or session; resources/list has those that can be read",
    )
