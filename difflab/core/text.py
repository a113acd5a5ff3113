"""Make text safe to print on a terminal or to store as UTF-8."""

from __future__ import annotations


def plain(text: str) -> str:
    """One printable line. Line ends, control characters and undecodable bytes of file names are escaped.

    >>> plain("a\\nb \\udcff")
    'a\\\\nb \\\\udcff'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def encodable(text: str) -> str:
    """`text` as it can be stored in UTF-8. Undecodable bytes of file names are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
