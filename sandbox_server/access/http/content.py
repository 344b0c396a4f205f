"""What a result shows of a body: JSON, text, markdown made of HTML, or base64."""

from __future__ import annotations

import base64
import codecs
import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from sandbox_server.access.http.hop import Content
from sandbox_server.access.http.markdown import Markdown
from sandbox_server.access.http.models import Body
from sandbox_server.access.redaction import Redactor

_SMALL = 64 * 1024
"""Up to this size a body is worked on at once; a larger one would hold up everybody else's."""
_TEXT = re.compile(
    r"text/.*|application/(.*\+)?(json|xml|yaml|toml)|application/(x-)?(javascript|ecmascript|sql|yaml|ndjson"
    r"|x-ndjson|jsonlines|graphql|x-www-form-urlencoded|xhtml|rtf|x-sh|pem-certificate-chain|x-tex)"
    r"|image/svg\+xml|message/http"
)
_JSON = re.compile(r"(application|text)/([^;]*\+)?json")
_HTML = re.compile(r"text/html|application/xhtml\+xml")
_CHARSET = re.compile(r";\s*charset=\"?([A-Za-z0-9._:-]{1,40})", re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-?8|us-ascii|ascii|(iso-?8859|latin)-?[0-9]{1,2}|cp(125[0-8]|874)|koi8-[ru]"
    r"|utf-?16(le|be)?|gb(k|2312|18030)|big5|shift[_-]jis|euc-(jp|kr)"
)
"""Python knows more codecs than these under the same roof; some are no character sets at all."""

_MAX_DEPTH = 64
"""Of JSON that is given as such. Clients' parsers have limits, too, and fail worse."""

T = TypeVar("T")


class Presenter:
    """Works on bodies; large ones in two threads of its own."""

    def __init__(self, markdown: Markdown | None = None) -> None:
        self._limiter = anyio.CapacityLimiter(2)
        self._markdown = markdown or Markdown()

    async def present(
        self,
        content: Content,
        content_type: str,
        redactor: Redactor,
        *,
        markdown: bool,
        shown: int,
        principal: str = "",
    ) -> Body:
        """At most `shown` bytes of it. Raises UpstreamFailed for HTML that can't be made markdown."""
        kind = content_type.partition(";")[0].strip().lower()
        if markdown and _HTML.fullmatch(kind):
            html = await self._work(len(content.data), partial(_to_text, content, content_type, redactor))
            text = redactor.text(await self._markdown.convert(html or "", principal))
            cut = text.encode()[:shown]
            whole = len(text.encode()) <= shown
            return Body(
                text=cut.decode(errors="ignore"), cut=content.cut or _only("" if whole else "shown", shown)
            )
        make = partial(_body, content, content_type, redactor, shown)
        return await self._work(len(content.data), make)

    async def _work(self, size: int, work: Callable[[], T]) -> T:
        if size <= _SMALL:
            return work()
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def _only(over: str, shown: int) -> str:
    return f"only {shown:,} bytes are shown" if over else ""


def _body(content: Content, content_type: str, redactor: Redactor, shown: int) -> Body:
    if not content.data:
        return Body(cut=content.cut)
    text = _to_text(content, content_type, redactor)
    if text is None:
        data = redactor.body(content.data, cut=bool(content.cut))
        cut = content.cut or _only("over" if len(data) > shown else "", shown)
        return Body(base64=base64.b64encode(data[:shown]).decode(), cut=cut)
    data = text.encode()
    kind = content_type.partition(";")[0].strip().lower()
    if _JSON.fullmatch(kind) and not content.cut and len(data) <= shown:
        try:
            return Body(json=(redactor.json(_parse(text)),))
        except (ValueError, RecursionError):
            pass  # it is shown as the text that it is
    if len(data) <= shown:
        return Body(text=text, cut=content.cut)
    return Body(text=data[:shown].decode(errors="ignore"), cut=content.cut or _only("over", shown))


def _to_text(content: Content, content_type: str, redactor: Redactor) -> str | None:
    """None for what is no text."""
    kind = content_type.partition(";")[0].strip().lower()
    data = redactor.body(content.data, cut=bool(content.cut))
    if not _TEXT.fullmatch(kind):
        # Unknown, or called something else: it is text if it can be nothing else.
        if kind not in ("", "application/octet-stream", "binary/octet-stream") or b"\0" in data:
            return None
        try:
            return redactor.text(data.decode())
        except UnicodeDecodeError:
            return None
    charset = _charset(content_type)
    # Of a body that was cut, the last character may be there in part.
    text = codecs.getincrementaldecoder(charset)("replace").decode(data, final=not content.cut)
    if "16" in charset:
        # What no spelling in ASCII is seen in as bytes, also not one that was cut.
        text = redactor.body(text.encode(), cut=bool(content.cut)).decode()
    return redactor.text(text.removeprefix("\ufeff"))


def _charset(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    name = found[1].lower().replace("windows-", "cp") if found else "utf-8"
    try:
        return codecs.lookup(name).name if _CHARSETS.fullmatch(name) else "utf-8"
    except LookupError:
        return "utf-8"  # of a known family, but no member of it: iso-8859-12


def _parse(text: str) -> object:
    """Raises ValueError for what could not be sent on as JSON: NaN, infinities, numbers without end; and for
    a name that an object has twice, of which a parser would show one."""

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError
        return value

    def constant(name: str) -> object:
        raise ValueError(name)

    def named(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError
        return found

    value: object = json.loads(text, parse_float=number, parse_constant=constant, object_pairs_hook=named)
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
