"""Figures: PNG and SVG, or PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ong.files import write_bytes
from ong.report.certificates import PROMISED, certified, promised_and_measured
from ong.report.costs import ABOUT, accuracy_against, costs
from ong.report.document import Document
from ong.report.documents import sections
from ong.report.figures import LIGHT, Form, accuracy_curves, render
from ong.report.formats import Options, report_format
from ong.report.heat_maps import heat_map
from ong.report.results import Results
from ong.report.runs import Runs

__all__ = ["figure_path", "pdf", "png", "svg"]


@report_format("png", "every figure as PNG and SVG", usual=True)
def png(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``figures/``; of several benchmarks ``figures/BENCHMARK/``."""
    return _write(results, folder, ("png", "svg"))


@report_format("svg", "every figure as SVG alone")
def svg(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``figures/`` likewise."""
    return _write(results, folder, ("svg",))


@report_format("pdf", "every figure as PDF, for papers")
def pdf(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``figures/`` likewise."""
    return _write(results, folder, ("pdf",))


def figure_path(runs: Runs | Document, name: str | None, several: bool) -> str:
    """Return where the PNG of a figure lies in the report's folder.

    Args:
        runs: whose figure.
        name: that of a strategy, cost, drawing or of the certificates; None is the accuracy curves.
        several: whether the report is of several benchmarks.
    """
    folder = f"figures/{_file_name(runs.benchmark)}" if several else "figures"
    if isinstance(runs, Document):
        return f"{folder}/{_file_name(str(name))}.png"
    if name in (None, PROMISED):
        return f"{folder}/{'accuracy' if name is None else 'promised'}.png"
    if name in ABOUT:
        return f"{folder}/accuracy-{str(name).replace('_', '-')}.png"
    return f"{folder}/matrix-{_file_name(str(name))}.png"


def _write(results: Results, folder: Path, forms: Sequence[Form]) -> list[Path]:
    written = []
    for runs in sections(results.groups):
        for name, figure in _figures(runs):
            stem = folder / figure_path(runs, name, len(results) > 1)
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
    return re.sub(r"[^A-Za-z0-9._+@-]", "-", name)
