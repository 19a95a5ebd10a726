"""What mkdocstrings asks of each docstring: its examples become code, and its roles, which are Sphinx's, plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1\S.*|\n\1 .*)*", re.MULTILINE)
"""A line that begins with ``>>>`` and those after it, up to an empty one."""


class Docstrings(griffe.Extension):
    """Makes Markdown of docstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            text = re.sub(r":(?:attr|class|data|exc|func|meth|mod):(?=`)", "", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"\1```pycon\n\g<0>\n\1```", text)
