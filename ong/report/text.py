"""Text of records, made safe for where it is shown."""

from __future__ import annotations

import re

__all__ = ["for_csv", "for_markdown", "printable"]


def printable(text: str) -> str:
    r"""Return text without what controls a terminal or hides letters; each such character becomes a question mark.

    >>> printable("a\x1b[31mb")
    'a?[31mb'
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def for_markdown(text: str) -> str:
    r"""Return text that Markdown prints as it stands, within a cell of a table too.

    Underscores within words mean nothing to Markdown and stay.

    >>> for_markdown("*a*|b_c $x$")
    '\\*a\\*\\|b_c \\$x\\$'
    """
    text = re.sub(r"([\\`*\[|$]|~(?=~))", r"\\\1", printable(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)
    return re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;")


def for_csv(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula: an apostrophe before its first sign.

    >>> for_csv("=1+1")
    "'=1+1"
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
