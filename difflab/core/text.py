"""Text that a terminal can show and a file can hold."""

from __future__ import annotations


def plain(text: str) -> str:
    """One line that a terminal can show: file names may hold line ends, control characters and bytes that are
    no text.

    >>> plain("a\\nb \\udcff")
    'a\\\\nb \\\\udcff'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def encodable(text: str) -> str:
    """`text` that can be stored as UTF-8: bytes of file names that are no text are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
