"""Figures of a benchmark's runs: average accuracy over the tasks seen, and what all figures share.

Figures are drawn with matplotlib's objects alone (no pyplot, no backend chosen for others), and the same
records give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ong.metrics import average_accuracy, average_accuracy_so_far
from ong.report.choice import PAPERS, Paper
from ong.report.intervals import Estimate, t_interval
from ong.report.looks import DASHES, MARKERS, Look, looks
from ong.report.runs import Runs

__all__ = [
    "DARK",
    "LIGHT",
    "Form",
    "Theme",
    "accuracy_curves",
    "band",
    "curve_of",
    "draw_curves",
    "figure_text",
    "legend",
    "new_axes",
    "painted",
    "plain_ticks",
    "references",
    "render",
    "tidy",
]


Form = Literal["png", "svg", "pdf"]


@dataclass(frozen=True)
class Theme:
    """Ink, paper and line colours that stay apart for colour-blind readers (Okabe and Ito, 2008; Tol, 2021)."""

    ink: str
    faint: str
    paper: str
    missing: str
    lines: tuple[str, ...]


LIGHT = Theme(
    ink="#1d2733",
    faint="#d5dbe2",
    paper="#ffffff",
    missing="#eceff3",
    lines=(
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#cc79a7",
        "#e69f00",
        "#56b4e9",
        "#7a5195",
        "#6d7680",
        "#882255",
        "#8a8a00",
    ),
)
DARK = Theme(
    ink="#dbe2ea",
    faint="#38424f",
    paper="#151b23",
    missing="#242d38",
    lines=(
        "#56a8e0",
        "#f08a4b",
        "#2cc295",
        "#e29ac4",
        "#f0b83c",
        "#8fd0f5",
        "#b18fd0",
        "#9aa5b1",
        "#d9709b",
        "#c2c24a",
    ),
)


def accuracy_curves(runs: Runs, theme: Theme = LIGHT) -> Figure:
    """Draw mean_{j≤t} R[t, j] over t for every strategy, with the 95% t-interval over seeds as a band.

    Of more than eight strategies they are the best by ``ACC``, and naive, unless some are chosen; of one sized to
    several budgets of memory it is the largest one's.

    Joint training, which has no intermediate rows, is a horizontal line at its ``ACC``; training from scratch
    has no sequence and is left out.
    """
    paper = PAPERS[runs.choice.paper]
    figure, axes = new_axes((paper.width, paper.height), theme, paper)
    draw_curves(axes, runs, theme)
    legend(axes, [figure_text(runs.label(name)) for name in runs.strategies], theme, paper)
    return figure


def draw_curves(axes: Axes, runs: Runs, theme: Theme = LIGHT) -> None:
    """Draw the curves of :func:`accuracy_curves` into axes."""
    tasks = np.arange(1, runs.tasks + 1)
    lowest, highest = 1.0, 0.0
    painter = painted(runs, theme)
    for strategy in runs.drawn(runs.pictured):
        curve = curve_of(runs, strategy)
        mean = np.array([estimate.mean for estimate in curve])
        half = np.nan_to_num(np.array([estimate.half_width for estimate in curve]))
        style = painter[strategy]
        axes.plot(tasks, mean, **style, label=figure_text(runs.label(strategy)), zorder=3)
        if half.any():
            axes.fill_between(tasks, mean - half, mean + half, color=style["color"], alpha=0.18, linewidth=0, zorder=2)
        lowest = min(lowest, float(np.nanmin(mean - half, initial=1.0)))
        highest = max(highest, float(np.nanmax(mean + half, initial=0.0)))
    for acc in references(axes, runs, theme):
        lowest, highest = min(lowest, acc), max(highest, acc)
    bottom, top = np.floor((lowest - 0.02) * 20) / 20, np.ceil((highest + 0.01) * 20) / 20
    axes.set_ylim(max(0.0, bottom), min(1.0, top))
    axes.set_xlim(0.8, runs.tasks + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("tasks seen", color=theme.ink)
    short = not PAPERS[runs.choice.paper].beside
    axes.set_ylabel("average accuracy" if short else "average accuracy over tasks seen", color=theme.ink)
    tidy(axes, theme)


def painted(runs: Runs, theme: Theme) -> dict[str, dict[str, Any]]:
    """Return what matplotlib draws each strategy's line with: colour, mark and dashes, the same in every figure."""
    return {name: _style(look, theme, PAPERS[runs.choice.paper]) for name, look in looks(runs).items()}


def _style(look: Look, theme: Theme, paper: Paper) -> dict[str, Any]:
    return {
        "color": theme.lines[look.colour],
        "linestyle": DASHES[look.dash],
        "marker": MARKERS[look.mark],
        "markerfacecolor": theme.paper if look.hollow else theme.lines[look.colour],
        "markersize": 0.5 * paper.font,
        "linewidth": 0.19 * paper.font,
    }


def figure_text(text: str) -> str:
    """Return text that matplotlib prints as it stands: a dollar is no formula, a leading underscore hides nothing."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def references(axes: Axes, runs: Runs, theme: Theme) -> list[float]:
    """Draw a horizontal line at the ``ACC`` of each strategy that has all tasks at once, and return these."""
    found = []
    for place, joint in enumerate(name for name in runs.references if name != "scratch"):
        acc = t_interval(average_accuracy(record.matrix) for record in runs.of(joint))
        dashes = (0, (6 / (place + 1), 3))
        axes.axhline(acc.mean, color=theme.ink, linestyle=dashes, linewidth=1.3, label=figure_text(runs.label(joint)))
        if not np.isnan(acc.half_width):
            low, high = acc.mean - acc.half_width, acc.mean + acc.half_width
            axes.axhspan(low, high, color=theme.ink, alpha=0.08, linewidth=0)
        found.append(acc.mean)
    return found


def render(figure: Figure, form: Form, *, outlines: bool = True) -> bytes:
    """Return a figure as the bytes of a PNG (160 dots an inch), SVG or PDF file, without a date in it.

    Args:
        figure: what to draw.
        form: the format.
        outlines: in an SVG, draw letters as shapes that look alike everywhere; False keeps them text, which
            is smaller and takes the reader's fonts.
    """
    buffer = io.BytesIO()
    undated: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    # The global settings are the only way to reach the salt of the ids; they are restored on exit.
    with mpl.rc_context(
        {
            "svg.hashsalt": "ong",
            "pdf.fonttype": 42,  # letters stay letters: journals ask for it
            "svg.fonttype": "path" if outlines else "none",
            "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
        }
    ):
        figure.savefig(buffer, format=form, dpi=160, metadata=undated[form])
    return buffer.getvalue()


def tidy(axes: Axes, theme: Theme) -> None:
    """Leave the bottom line and faint horizontal lines, and no ticks."""
    axes.grid(axis="y", color=theme.faint, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.tick_params(length=0, which="both", colors=theme.ink)


def new_axes(size: tuple[float, float], theme: Theme, paper: Paper | None = None) -> tuple[Figure, Axes]:
    """Return a figure on a theme's paper with one pair of axes in it."""
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.paper)
    font = (paper or PAPERS["screen"]).font
    axes.tick_params(colors=theme.ink, labelsize=font - 0.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(font + 0.5)
    return figure, axes


def plain_ticks(axes: Axes) -> None:
    """Label logarithmic axes with plain numbers, at several of each decade where there are few."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = sorted(axis.get_view_interval())
            decades = np.log10(high / low) if low > 0 else 9.0
            few = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
            axis.set_major_locator(LogLocator(subs=few))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_locator(NullLocator())


def band(
    axes: Axes,
    x: NDArray[np.float64] | NDArray[np.int64],
    curves: NDArray[np.float64],
    colour: str,
    marker: str,
    label: str,
    width: float = 1.8,
) -> None:
    """Draw the geometric mean of curves (one a row), a band between the least and the largest."""
    positive = np.maximum(curves, np.finfo(np.float64).tiny)
    mean = np.exp(np.log(positive).mean(axis=0))
    axes.plot(x, mean, color=colour, marker=marker, markersize=width + 2.5, linewidth=width, label=label, zorder=3)
    if len(curves) > 1:
        axes.fill_between(x, positive.min(axis=0), positive.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def legend(axes: Axes, names: Sequence[str], theme: Theme, paper: Paper = PAPERS["screen"]) -> None:
    """Put the legend beside the axes, or below them on a narrow paper, in the order of the names.

    A figure grows by what the legend takes below it, or beside it where there are more names than fit in one column.
    """
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: names.index(labels[i]))
    shown = {
        "handles": [handles[i] for i in order], "labels": [labels[i] for i in order],
        "frameon": False, "labelcolor": theme.ink, "fontsize": paper.font,
        "handlelength": 3.6,  # long enough to show dashes on both sides of a marker
    }  # fmt: skip
    figure = axes.get_figure(root=True)
    assert figure is not None
    line = 1.55 * paper.font / 72
    if paper.beside:
        columns = -(-len(order) // int(figure.get_figheight() / line))
        axes.legend(**shown, loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns).set_in_layout(True)
        width = (7 + 0.6 * max(map(len, labels), default=0)) * paper.font / 72
        figure.set_figwidth(figure.get_figwidth() + (columns - 1) * width)
    else:
        columns = 2
        figure.legend(**shown, loc="outside lower center", ncols=columns)
        figure.set_figheight(figure.get_figheight() + -(-len(order) // columns) * line)


def curve_of(runs: Runs, strategy: str) -> list[Estimate]:
    """Return the average accuracy over the tasks seen, after each task, with its interval over seeds."""
    seeds = np.stack([average_accuracy_so_far(record.matrix) for record in runs.of(strategy)])
    return [t_interval(seeds[:, t].tolist()) for t in range(runs.tasks)]
