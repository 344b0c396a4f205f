"""What of a text may be shown: to a model, in a log, on a terminal. One table for all of them."""

from __future__ import annotations

import re

# C0 except tab and newline, DEL, C1, line and paragraph separators, the characters that reorder
# text on a screen, and those that nobody sees but a model reads (Unicode's default ignorable ones: tags,
# zero width, fillers, most variation selectors): shown as escapes, so that no reader can be played.
_RANGES = (
    *((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x034F, 0x034F), (0x061C, 0x061C)),
    *((0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200B), (0x200E, 0x200F)),
    *((0x2028, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xD800, 0xDFFF), (0xFE00, 0xFE0D)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A)),
    (0xE0000, 0xE0FFF),
)
_UNSAFE_ASCII = re.compile("[\0-\x08\x0b-\x1f\x7f]")
_UNSAFE = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _RANGES)}]")

# Emoji and the scripts whose letters join need four more. Each is kept, one at a time, behind what it can
# change; anywhere else, as in a row of them, it could only be a message that is not to be seen.
_EMOJI = "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_JOINING = "\u0600-\u0604\u0606-\u061b\u061d-\u109f\u1780-\u17b3\u17b6-\u180a\u1810-\u1cff\ua800-\uabff"
_JOINING += "\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff\U0001e900-\U0001e95f"
_STYLED = rf"(?<![{_EMOJI}]X)(?!(?<=[#*0-9]X)\u20e3)"
_IN_PLACE = tuple(
    (character, re.compile(f"{character}{place.replace('X', character)}"), f"\\\\u{ord(character):04x}")
    # The order counts: by the time that joiners are looked at, no selector is left out of its place.
    for character, place in (
        ("\ufe0f", _STYLED),
        ("\ufe0e", _STYLED),
        ("\u200d", f"(?<![{_JOINING}{_EMOJI}\ufe0f]X)"),
        ("\u200c", f"(?<![{_JOINING}]X)"),
    )
)


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
    """Control, reordering and unseen characters as Python-style escapes; lone surrogates as U+FFFD."""
    # The searches are quick where there is nothing to do, the table where there is much.
    if text.isascii():
        return text.translate(_ESCAPES) if _UNSAFE_ASCII.search(text) else text
    for character, misplaced, escape in _IN_PLACE:
        if character in text:
            text = misplaced.sub(escape, text)
    return text.translate(_ESCAPES) if _UNSAFE.search(text) else text


def on_one_line(text: str) -> str:
    """As `make_visible`, with tabs and line ends as escapes, too."""
    return make_visible(text).translate(_LINES)
