"""Write the report of a directory's records into that directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ong.errors import UnknownNameError, UserError
from ong.report.certificates import PROMISED, certified, promised_and_measured
from ong.report.costs import ABOUT, accuracy_against, costs
from ong.report.document import Document
from ong.report.documents import document
from ong.report.figures import LIGHT, accuracy_curves, heat_map, render
from ong.report.latex import latex
from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.runs import Runs, read_runs
from ong.report.tables import seeds_frame

__all__ = ["FORMATS", "write_report"]

FORMATS = ("md", "csv", "tex", "html", "png")
"""What a report can be written as; ``png`` stands for the figures, as PNG and SVG."""


def write_report(directory: Path | str, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Read the records under a directory and write ``report.{md,csv,tex,html}`` and ``figures/`` into it.

    ``report.csv`` has one row for each strategy and seed. Of several benchmarks every report has a section
    each, the CSV a column, and the figures lie in ``figures/BENCHMARK/``.

    Returns:
        The files written.

    Raises:
        UserError: if a format is unknown, there are no records or they are broken, or the directory cannot be
            written to.
    """
    directory = Path(directory)
    wanted = list(dict.fromkeys(formats))
    if not wanted:
        raise UserError(f"no format to write; give any of {','.join(FORMATS)}")
    for name in wanted:
        if name not in FORMATS:
            raise UnknownNameError("report format", name, FORMATS)
    groups = [runs if isinstance(runs, Runs) else document(runs) for runs in read_runs(directory)]

    def figure_path(runs: Runs | Document, strategy: str | None) -> str:
        folder = f"figures/{_file_name(runs.benchmark)}" if len(groups) > 1 else "figures"
        if isinstance(runs, Document):
            return f"{folder}/{_file_name(str(strategy))}.png"
        if strategy in (None, PROMISED):
            return f"{folder}/{'accuracy' if strategy is None else 'promised'}.png"
        if strategy in ABOUT:
            return f"{folder}/accuracy-{str(strategy).replace('_', '-')}.png"
        return f"{folder}/matrix-{_file_name(str(strategy))}.png"

    writers: dict[str, Callable[[], str]] = {
        "md": lambda: markdown(groups, figure_path if "png" in wanted else None),
        "csv": lambda: pd.concat(
            [seeds_frame(runs) if isinstance(runs, Runs) else runs.frame for runs in groups]
        ).to_csv(index=False, lineterminator="\n"),
        "tex": lambda: latex(groups),
        "html": lambda: page(groups),
    }
    written = []
    try:
        for name, text in writers.items():
            if name in wanted:
                path = directory / f"report.{name}"
                path.write_text(text(), encoding="utf-8", newline="\n")
                written.append(path)
        if "png" in wanted:
            written += _write_figures(directory, groups, figure_path)
    except OSError as error:
        raise UserError(
            f"{error.filename or directory}: cannot be written ({error.strerror}); reports are written "
            "beside the records, so copy these to a place you may write to"
        ) from error
    return written


def _write_figures(
    directory: Path, groups: Sequence[Runs | Document], figure_path: Callable[[Runs | Document, str | None], str]
) -> list[Path]:
    written = []
    for runs in groups:
        for name, figure in _figures(runs):
            png = directory / figure_path(runs, name)
            png.parent.mkdir(parents=True, exist_ok=True)
            png.write_bytes(render(figure, "png"))
            svg = png.with_suffix(".svg")
            svg.write_bytes(render(figure, "svg"))
            written += [png, svg]
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
