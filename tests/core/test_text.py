"""Text that a terminal can show and a file can hold."""

from __future__ import annotations

from difflab.core.text import encodable, plain


def test_plain_text_is_one_line_that_a_terminal_can_show():
    assert plain("caf\u00e9 \u732b") == "caf\u00e9 \u732b"
    assert plain("a\nb\tc\x1b[31m") == "a\\nb\\tc\\x1b[31m"
    assert plain("x\udcff") == "x\\udcff"


def test_encodable_text_can_be_stored_and_valid_text_stays():
    assert encodable("caf\u00e9\n") == "caf\u00e9\n"
    assert encodable("x\udcff").encode("utf-8") == b"x\\udcff"
