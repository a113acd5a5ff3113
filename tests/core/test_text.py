"""Text that a terminal can show and a file can hold."""

from __future__ import annotations

from pathlib import Path

from difflab.core.text import encodable, is_url, plain


def test_plain_text_is_one_line_that_a_terminal_can_show():
    assert plain("caf\u00e9 \u732b") == "caf\u00e9 \u732b"
    assert plain("a\nb\tc\x1b[31m") == "a\\nb\\tc\\x1b[31m"
    assert plain("x\udcff") == "x\\udcff"


def test_encodable_text_can_be_stored_and_valid_text_stays():
    assert encodable("caf\u00e9\n") == "caf\u00e9\n"
    assert encodable("x\udcff").encode("utf-8") == b"x\\udcff"


def test_names_are_shown_in_one_line_and_stored_as_text():
    assert plain("a\nb\x1b[31m\u202e\udcff") == "a\\nb\\x1b[31m\\u202e\\udcff" and plain("ü 猫") == "ü 猫"
    assert encodable("a\nü\udcff") == "a\nü\\udcff"


def test_a_url_has_a_scheme_and_is_no_path():
    assert is_url("s3://bucket/run") and is_url("memory://a") and is_url("az://")
    others = ("runs/digits", "/runs", "s3:/bucket", "://a", "2://a", "", "a b://c", Path("s3://bucket"), None)
    assert not any(map(is_url, others))
