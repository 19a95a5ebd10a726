r"""The summary as a LaTeX table for ``\input``; the document needs ``\usepackage{booktabs}`` only."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ong.report.columns import COSTS, Column, columns
from ong.report.document import Document
from ong.report.intervals import Estimate
from ong.report.runs import Runs
from ong.report.tables import best, estimates, shown

__all__ = ["escape", "latex"]

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": r"\(-\)",
    "–": "--",
    "±": r"\(\pm\)",
    "°": r"\(^\circ\)",
    "≥": r"\(\geq\)",
    "≤": r"\(\leq\)",
    "→": r"\(\to\)",
    "×": r"\(\times\)",
    "α": r"\(\alpha\)",
    "²": r"\(^2\)",
    "½": r"\(\frac12\)",
}


def escape(text: str) -> str:
    """Return text that LaTeX prints as it stands; characters beyond Latin-1 that it may lack become ``?``."""
    text = re.sub(r"\s+", " ", text)
    return "".join(_SPECIAL.get(c) or (c if ord(c) < 256 else "?") for c in text)


def latex(groups: Sequence[Runs | Document]) -> str:
    r"""Write one ``table`` for each benchmark: the metrics of R, mean ± half-width, best in bold.

    Columns that were chosen stand alone, without what strategies need. Joint and scratch training do not compete for
    bold. Labels are ``tab:BENCHMARK``; for the two columns of a paper it is a ``table*``.
    """
    head = "% Written by `ong report`; needs \\usepackage{booktabs}.\n"
    return head + "\n".join(_table(runs) if isinstance(runs, Runs) else _document_table(runs) for runs in groups)


def _table(runs: Runs) -> str:
    usual = [c.key for c in columns(runs).values() if not c.on_request and c.key not in COSTS]
    chosen = shown(runs, runs.choice.columns or usual)
    winners = {c.key: best(runs, c) for c in chosen}
    has_needs = not runs.choice.columns and any(runs.needs(strategy) for strategy in runs.strategies)
    counts = {strategy: len(runs.of(strategy)) for strategy in runs.strategies}
    uneven = len(set(counts.values())) > 1
    headings = [
        "Strategy",
        *(["Seeds"] if uneven else []),
        *(escape(c.title) for c in chosen),
        *(["Needs"] if has_needs else []),
    ]
    rows = []
    for strategy, row in estimates(runs).items():
        cells = [_cell(c, row[c.key], runs.label(strategy) in winners[c.key]) for c in chosen]
        seeds_of = [str(counts[strategy])] if uneven else []
        rows.append(
            [escape(runs.label(strategy)), *seeds_of, *cells, *([escape(runs.needs(strategy))] if has_needs else [])]
        )
    seeds = ", ".join(map(str, runs.seeds))
    caption = (
        f"{escape(runs.benchmark)}, {runs.tasks} tasks, seeds {seeds}: mean "
        r"\(\pm\) half-width of the 95\% t-interval over seeds; "
        "best in bold, joint and scratch not competing."
    )
    layout = f"l{'r' * (len(chosen) + uneven)}{'l' if has_needs else ''}"
    wide = runs.choice.paper == "two-column"
    return _float(runs.benchmark, caption, layout, [headings, *rows], "table*" if wide else "table")


def _document_table(document: Document) -> str:
    """Write a document's summary, as it is printed elsewhere."""
    table = document.summary
    seeds = ", ".join(map(str, document.runs.seeds))
    caption = f"{escape(document.benchmark)}, seeds {seeds}. {escape(table.lead)}"
    rows = [[escape(str(cell)) for cell in row] for row in table.frame.itertuples(index=False, name=None)]
    columns = "".join("l" if name in table.text else "r" for name in table.frame.columns)
    return _float(document.benchmark, caption, columns, [[escape(str(name)) for name in table.frame.columns], *rows])


def _float(name: str, caption: str, columns: str, rows: Sequence[Sequence[str]], environment: str = "table") -> str:
    label = re.sub(r"[^A-Za-z0-9-]", "-", name)
    lines = [
        f"\\begin{{{environment}}}",
        r"  \centering",
        r"  \footnotesize",
        r"  \setlength{\tabcolsep}{4pt}",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{label}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        f"    {' & '.join(rows[0])} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows[1:]),
        r"    \bottomrule",
        r"  \end{tabular}",
        f"\\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _cell(column: Column, estimate: Estimate, bold: bool) -> str:
    if math.isnan(estimate.mean):
        return "--"
    if not column.interval:  # words and units, such as 2.4 MB
        return escape(column.write(estimate.mean))
    mean = column.write(estimate.mean).replace("−", "-")
    mean = f"\\mathbf{{{mean}}}" if bold else mean
    if math.isnan(estimate.half_width):
        return f"\\({mean}\\)"
    return f"\\({mean} \\pm {column.write(estimate.half_width)}\\)"
