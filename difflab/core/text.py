"""Make text safe to print on a terminal or to store as UTF-8."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """One printable line. Line ends, control characters and undecodable bytes of file names are escaped.

    >>> plain("a\\nb \\udcff")
    'a\\\\nb \\\\udcff'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def encodable(text: str) -> str:
    """`text` as it can be stored in UTF-8. Undecodable bytes of file names are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_url(text: object) -> bool:
    """Whether `text` is a string such as s3://bucket/path, and not the path of a file.

    >>> is_url("s3://bucket/run"), is_url("runs/digits")
    (True, False)
    """
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None
