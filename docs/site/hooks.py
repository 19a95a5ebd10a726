"""What MkDocs asks while it builds the site: links out of ``docs/``, parts made of the code, formulas."""

from __future__ import annotations

import html
import os
import posixpath
import re
import unicodedata
from pathlib import Path
from typing import Any

from generated import MARKERS
from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PUBLISHED = "results/*/report.html", "results/permuted-mnist-gpm/figures/accuracy.png"
"""Files outside of ``docs/`` that the site has too, under the same paths."""
_OLD = {"DOUBLE-STRUCK": "CHNPQRZ", "SCRIPT": "BEFHILMR"}  # letters of Unicode's first block of such


def on_files(files: Files, config: Any) -> Files:
    """Add the published pages."""
    for pattern in PUBLISHED:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(text: str, page: Any, files: Files, **_: Any) -> str:
    """Fill in what is made of the code, and point every link to where its file is in the site."""
    here = page.file.src_uri
    text = _links(text, "docs/" + posixpath.dirname(here), here, files)

    def fill(match: re.Match[str]) -> str:
        made = MARKERS[match["name"]](*match["options"].split("|") if match["options"] else ())
        return _links(made, "docs/examples" if match["name"] == "notebook" else ".", here, files)

    return re.sub(r"^<!-- (?P<name>[a-z]+)(?:: (?P<options>.+))? -->$", fill, text, flags=re.MULTILINE)


def _links(text: str, base: str, here: str, files: Files) -> str:
    """Rewrite links to files of the repository, which are seen from the folder ``base``.

    A file or folder that the site does not have stays as text, with its path.
    """

    def rewrite(match: re.Match[str]) -> str:
        shown, target = match["text"], match["target"]
        path, _, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]
        inside = posixpath.normpath(posixpath.join(base, path))
        known = (inside.removeprefix("docs/"), inside, f"{inside}/report.html", "published.md" * (inside == "results"))
        found = next((uri for uri in known if files.get_file_from_path(uri) is not None), None)
        if found is not None:
            if shown == path and found.endswith(".md"):
                shown = re.search(r"^# (.+)", files.get_file_from_path(found).content_string, re.MULTILINE)[1]
            seen = os.path.relpath(found, posixpath.dirname(here) or ".")
            return f"{match['image']}[{shown}]({seen}{'#' * bool(anchor)}{anchor})"
        if not (ROOT / inside).exists():
            return match[0]  # MkDocs reports it
        return f"`{inside}`" if shown.strip("`/") == inside else f"{shown} (`{inside}`)"

    return re.sub(r"(?P<image>!?)\[(?P<text>[^]\n]*)]\((?P<target>[^)\s]+)\)", rewrite, text)


def on_page_content(content: str, **_: Any) -> str:
    """Turn LaTeX into MathML, which browsers draw by themselves."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        tex = re.sub(r"\\math(bb|cal) ?\{?([A-Z])\}?", letter, html.unescape(match["tex"]).strip())
        return str(convert(tex, display=display))

    def letter(match: re.Match[str]) -> str:  # browsers take no mathvariant
        style = {"bb": "DOUBLE-STRUCK", "cal": "SCRIPT"}[match[1]]
        name = f"{style} CAPITAL {match[2]}"
        return unicodedata.lookup(name if match[2] in _OLD[style] else f"MATHEMATICAL {name}")

    drawn = r'<(?P<tag>div|span) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>'
    return re.sub(drawn, formula, content, flags=re.DOTALL)
