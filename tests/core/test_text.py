"""Text for terminals and for files."""

from __future__ import annotations

from difflab.core.text import encodable, plain


def test_names_are_shown_in_one_line_and_stored_as_text():
    assert plain("a\nb\x1b[31m\u202e\udcff") == "a\\nb\\x1b[31m\\u202e\\udcff" and plain("ü 猫") == "ü 猫"
    assert encodable("a\nü\udcff") == "a\nü\\udcff"
