"""What may be shown, wherever it is shown."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.execution.uris import shown
from sandbox_server.observe import logs
from sandbox_server.protocol.text import visible
from sandbox_server.text import make_visible, on_one_line

JOINERS = "\u200c\u200d"


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "N"])))
def test_results_logs_and_names_show_a_text_alike(text: str) -> None:
    assert visible(text.replace("\r\n", "")) == make_visible(text.replace("\r\n", ""))
    assert logs.visible(text) == on_one_line(text)
    assert logs.visible(text, keep_lines=True) == on_one_line(text).replace("\\n", "\n") or "\\n" in text
    quoted = "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "replace"))
    assert shown(quoted) == on_one_line(text.encode("utf-8", "replace").decode())


def test_no_character_that_moves_reorders_or_hides_text_is_shown() -> None:
    for code in range(0x110000):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in _REORDERING:
            assert character not in on_one_line(character)
    for character in "\u200b\ufeff\u2060\U000e0041":
        assert on_one_line(character).startswith("\\")
    assert on_one_line(JOINERS) == JOINERS


_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
