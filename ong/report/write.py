"""Write the report of a directory's records into that directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ong.errors import UnknownNameError, UserError
from ong.files import write_bytes
from ong.report.certificates import PROMISED, certified, promised_and_measured
from ong.report.choice import Choice
from ong.report.costs import ABOUT, accuracy_against, costs
from ong.report.document import Document
from ong.report.documents import document
from ong.report.exports import csv_bytes, matrices_csv, matrices_npz
from ong.report.figures import LIGHT, Form, accuracy_curves, render
from ong.report.heat_maps import heat_map
from ong.report.latex import latex
from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.runs import Runs, read_runs
from ong.report.selection import choose
from ong.report.tables import seeds_frame

__all__ = ["FORMATS", "ON_REQUEST", "write_report"]

FORMATS = ("md", "csv", "tex", "html", "png")
"""What a report is written as by default; ``png`` stands for the figures, as PNG and SVG."""

ON_REQUEST = ("pdf", "matrices", "npz")
"""What it can be written as too: figures as PDF, and every accuracy matrix as ``matrices.csv`` or ``matrices.npz``."""


def write_report(directory: Path | str, formats: Iterable[str] = FORMATS, choice: Choice | None = None) -> list[Path]:
    """Read the records under a directory and write ``report.{md,csv,tex,html}`` and ``figures/`` into it.

    ``report.csv`` has one row for each strategy and seed. Of several benchmarks every report has a section
    each, the CSV a column, and the figures lie in ``figures/BENCHMARK/``.

    Args:
        directory: where the records lie.
        formats: any of :data:`FORMATS` and :data:`ON_REQUEST`.
        choice: the strategies and columns shown, their labels and the paper of the figures; all if None.

    Returns:
        The files written.

    Raises:
        UserError: if a format, strategy or column is unknown, there are no records or they are broken, or the directory
            cannot be written to.
        WorkStoppedError: if the disk is full; every file is whole then, of this report or of the one before.
    """
    directory = Path(directory)
    wanted = list(dict.fromkeys(formats))
    if not wanted:
        raise UserError(f"no format to write; give any of {','.join((*FORMATS, *ON_REQUEST))}")
    for name in wanted:
        if name not in (*FORMATS, *ON_REQUEST):
            raise UnknownNameError("report format", name, (*FORMATS, *ON_REQUEST))
    chosen = choose(read_runs(directory), choice or Choice())
    groups = [runs if isinstance(runs, Runs) else document(runs) for runs in chosen]

    def figure_path(runs: Runs | Document, strategy: str | None) -> str:
        folder = f"figures/{_file_name(runs.benchmark)}" if len(groups) > 1 else "figures"
        if isinstance(runs, Document):
            return f"{folder}/{_file_name(str(strategy))}.png"
        if strategy in (None, PROMISED):
            return f"{folder}/{'accuracy' if strategy is None else 'promised'}.png"
        if strategy in ABOUT:
            return f"{folder}/accuracy-{str(strategy).replace('_', '-')}.png"
        return f"{folder}/matrix-{_file_name(str(strategy))}.png"

    writers: dict[str, tuple[str, Callable[[], bytes]]] = {
        "md": ("report.md", lambda: markdown(groups, figure_path if "png" in wanted else None).encode()),
        "csv": ("report.csv", lambda: _every_run(groups)),
        "tex": ("report.tex", lambda: latex(groups).encode()),
        "html": ("report.html", lambda: page(groups).encode()),
        "matrices": ("matrices.csv", lambda: matrices_csv(chosen)),
        "npz": ("matrices.npz", lambda: matrices_npz(chosen)),
    }
    written = []
    try:
        for name, (file, content) in writers.items():
            if name in wanted:
                path = directory / file
                write_bytes(path, content())
                written.append(path)
        forms = [*(("png", "svg") if "png" in wanted else ()), *(("pdf",) if "pdf" in wanted else ())]
        if forms:
            written += _write_figures(directory, groups, figure_path, forms)
    except UserError as error:
        raise UserError(
            f"{error}; reports are written beside the records, so copy these to a place you may write to"
        ) from None
    return written


def _every_run(groups: Sequence[Runs | Document]) -> bytes:
    frames = [seeds_frame(runs) if isinstance(runs, Runs) else runs.frame for runs in groups]
    return csv_bytes(pd.concat(frames))


def _write_figures(
    directory: Path,
    groups: Sequence[Runs | Document],
    figure_path: Callable[[Runs | Document, str | None], str],
    forms: Sequence[Form],
) -> list[Path]:
    written = []
    for runs in groups:
        for name, figure in _figures(runs):
            stem = directory / figure_path(runs, name)
            for form in forms:
                path = stem.with_suffix(f".{form}")
                write_bytes(path, render(figure, form))
                written.append(path)
    return written


def _figures(runs: Runs | Document) -> Iterator[tuple[str | None, Figure]]:
    if isinstance(runs, Document):
        yield from ((drawing.name, drawing.draw(LIGHT)) for drawing in runs.drawings)
    else:
        yield None, accuracy_curves(runs)
        if certified(runs):
            yield PROMISED, promised_and_measured(runs)
        yield from ((cost, accuracy_against(runs, cost)) for cost in costs(runs))
        yield from ((strategy, heat_map(runs, strategy)) for strategy in runs.pictured)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name)
