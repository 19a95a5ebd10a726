"""Markdown, LaTeX and the HTML page."""

from __future__ import annotations

from pathlib import Path

from ong.files import write_bytes
from ong.report.document import Document
from ong.report.documents import sections
from ong.report.formats import Options, report_format
from ong.report.formats.figures import figure_path
from ong.report.latex import latex
from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.results import Results
from ong.report.runs import Runs

__all__ = ["html", "md", "tex"]


@report_format("md", "tables, notes and links to the figures in Markdown", usual=True)
def md(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``report.md``."""

    def path_of(runs: Runs | Document, name: str | None) -> str:
        return figure_path(runs, name, len(results) > 1)

    figures = path_of if "png" in options.formats else None
    return _written(folder / "report.md", markdown(sections(results.groups), figures))


@report_format("tex", "the summary as a LaTeX table", usual=True)
def tex(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``report.tex``."""
    return _written(folder / "report.tex", latex(sections(results.groups)))


@report_format("html", "one page that holds everything", usual=True)
def html(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``report.html``."""
    return _written(folder / "report.html", page(sections(results.groups)))


def _written(path: Path, text: str) -> list[Path]:
    write_bytes(path, text.encode())
    return [path]
