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


def test_no_character_that_nobody_sees_is_shown() -> None:
    for first, last in DEFAULT_IGNORABLE:
        for code in range(first, last + 1):
            assert make_visible(f"a{chr(code)}b").startswith("a\\"), hex(code)


def test_what_joins_letters_and_styles_emoji_is_kept_in_its_place() -> None:
    for text in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: I want
        "\u0915\u094d\u200d\u0937",  # Devanagari: half a letter
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "\u2764\ufe0f\u200d\U0001f525",  # a heart on fire
        "\U0001f3f3\ufe0f\u200d\U0001f308",  # a flag
        "\U0001f469\U0001f3fd\u200d\U0001f4bb",  # a skin, a laptop
        "1\ufe0f\u20e3 \u2714\ufe0f \u2600\ufe0e",
        "straße, naïve, 漢字, 한국어",
    ):
        assert make_visible(text) == text


@given(st.text("\u200c\u200d\ufe0e\ufe0f\ufe00\U000e0100ab\u2764\u0645", max_size=40))
def test_of_characters_that_are_not_seen_no_two_stand_in_a_row_but_an_emoji_s(text: str) -> None:
    shown_text = make_visible(text)
    for before, after in zip(" " + shown_text, shown_text, strict=False):
        if after in "\ufe0e\ufe0f":
            assert before == "\u2764"
        elif after in JOINERS:
            assert before in "\u0645\u2764\ufe0f"
    assert not set(shown_text) & set("\ufe00\U000e0100")


# Of DerivedCoreProperties.txt, as far as it is not asked for elsewhere here.
DEFAULT_IGNORABLE = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
    *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A)),
    (0xE0000, 0xE0FFF),
)
_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
