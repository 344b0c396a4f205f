"""What of a text may be shown: to a model, in a log, on a terminal. One table for all of them."""

from __future__ import annotations

import re

# C0 except tab and newline, DEL, C1, line and paragraph separators, the characters that reorder
# text on a screen, and those that nobody sees but a model reads (tags, zero width; not the two
# joiners, which scripts and emoji need): shown as escapes, so that no reader can be played.
_RANGES = (
    *((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0x061C, 0x061C), (0x200B, 0x200B), (0x200E, 0x200F)),
    *((0x2028, 0x202E), (0x2060, 0x2069), (0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xE0000, 0xE007F)),
)
_UNSAFE = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _RANGES)}]")


def _escape(code: int) -> str:
    if code == ord("\r"):
        return "\\r"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_ESCAPES = {code: _escape(code) for first, last in _RANGES for code in range(first, last + 1)}
_LINES = {ord("\n"): "\\n", ord("\t"): "\\t"}


def make_visible(text: str) -> str:
    """Control and reordering characters as Python-style escapes; lone surrogates as U+FFFD."""
    # The search is quick where there is nothing to do, the table where there is much.
    return text.translate(_ESCAPES) if _UNSAFE.search(text) else text


def on_one_line(text: str) -> str:
    """As `make_visible`, with tabs and line ends as escapes, too."""
    return make_visible(text).translate(_LINES)
