"""Figures of a benchmark's runs: a heat map of R for each strategy, and average accuracy over the tasks seen.

Figures are drawn with matplotlib's objects alone (no pyplot, no backend chosen for others), and the same
records give the same bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ong.metrics import average_accuracy, average_accuracy_so_far
from ong.report.columns import MISSING
from ong.report.intervals import Estimate, t_interval
from ong.report.runs import Runs

__all__ = [
    "DARK",
    "LIGHT",
    "MARKERS",
    "Theme",
    "accuracy_curves",
    "band",
    "heat_map",
    "legend",
    "new_axes",
    "plain_ticks",
    "references",
    "render",
    "tidy",
]

MOST_TASKS_WITH_VALUES = 12


@dataclass(frozen=True)
class Theme:
    """Ink, paper and line colours that stay apart for colour-blind readers (after Okabe and Ito, 2008)."""

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
    lines=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195"),
)
DARK = Theme(
    ink="#dbe2ea",
    faint="#38424f",
    paper="#151b23",
    missing="#242d38",
    lines=("#56a8e0", "#f08a4b", "#2cc295", "#e29ac4", "#f0b83c", "#8fd0f5", "#b18fd0"),
)
MARKERS = "osD^vPX"


def heat_map(runs: Runs, strategy: str, theme: Theme = LIGHT) -> Figure:
    """Draw R of one strategy, mean over its seeds, the row before training on top.

    The colours span 0 to 1 in every heat map; values are written in the cells up to T = 12; cells without a
    measurement (joint training) are grey.
    """
    values = _mean_over_seeds(np.stack([record.matrix.values for record in runs.of(strategy)]))
    tasks = values.shape[1]
    size = min(0.42 * tasks + 1.5, 9.0)
    figure, axes = new_axes((size + 0.5, size + 0.2), theme)
    colours = mpl.colormaps["viridis"].with_extremes(bad=theme.missing)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=0.0, vmax=1.0, aspect="equal")
    if tasks <= MOST_TASKS_WITH_VALUES:
        for (row, task), value in np.ndenumerate(values):
            ink = theme.ink if np.isnan(value) else "#111111" if value > 0.6 else "#ffffff"
            text = MISSING if np.isnan(value) else f"{value:.2f}".removeprefix("0")
            label = axes.text(task, row, text, ha="center", va="center", color=ink, fontsize=9.5)
            label.set_in_layout(False)  # it lies within the axes; measuring it takes most of the time
    axes.axhline(0.5, color=theme.paper, linewidth=2.5)
    step = 1 if tasks <= 20 else -(-tasks // 20)
    axes.set_xticks(range(0, tasks, step), [str(j) for j in range(0, tasks, step)])
    axes.set_yticks([0, *range(1, tasks + 1, step)], ["before", *(str(t) for t in range(0, tasks, step))])
    axes.set_xlabel("accuracy on task", color=theme.ink, fontsize=11)
    axes.set_ylabel("after training task", color=theme.ink, fontsize=11)
    axes.set_title(_with_seeds(strategy, len(runs.of(strategy))), color=theme.ink, fontsize=14, loc="left")
    axes.tick_params(length=0, labelsize=10)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0.0, 0.25, 0.5, 0.75, 1.0])
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.ink, labelsize=8, length=0)
    return figure


def accuracy_curves(runs: Runs, theme: Theme = LIGHT) -> Figure:
    """Draw mean_{j≤t} R[t, j] over t for every strategy, with the 95% t-interval over seeds as a band.

    Of a strategy sized to several budgets of memory it is the largest one's.

    Joint training, which has no intermediate rows, is a horizontal line at its ``ACC``; training from scratch
    has no sequence and is left out.
    """
    figure, axes = new_axes((8.6, 4.6), theme)
    tasks = np.arange(1, runs.tasks + 1)
    lowest, highest = 1.0, 0.0
    drawn = [name for name in runs.pictured if name not in runs.references]
    for i, strategy in enumerate(drawn):
        curve = _curve(runs, strategy)
        mean = np.array([estimate.mean for estimate in curve])
        half = np.nan_to_num(np.array([estimate.half_width for estimate in curve]))
        colour = theme.lines[i % len(theme.lines)]
        style = ("-", "--", ":")[i // len(theme.lines) % 3]
        axes.plot(
            tasks, mean, style, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=4.5, linewidth=1.8,
            label=strategy, zorder=3,
        )  # fmt: skip
        if half.any():
            axes.fill_between(tasks, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0, zorder=2)
        lowest = min(lowest, float(np.nanmin(mean, initial=1.0)))
        highest = max(highest, float(np.nanmax(mean, initial=0.0)))
    for acc in references(axes, runs, theme):
        lowest, highest = min(lowest, acc), max(highest, acc)
    bottom, top = np.floor((lowest - 0.02) * 20) / 20, np.ceil((highest + 0.01) * 20) / 20
    axes.set_ylim(max(0.0, bottom), min(1.0, top))
    axes.set_xlim(0.8, runs.tasks + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("tasks seen", color=theme.ink)
    axes.set_ylabel("average accuracy over tasks seen", color=theme.ink)
    tidy(axes, theme)
    legend(axes, runs.strategies, theme)
    return figure


def references(axes: Axes, runs: Runs, theme: Theme) -> list[float]:
    """Draw a horizontal line at the ``ACC`` of each strategy that has all tasks at once, and return these."""
    found = []
    for place, joint in enumerate(name for name in runs.references if name != "scratch"):
        acc = t_interval(average_accuracy(record.matrix) for record in runs.of(joint))
        dashes = (0, (6 / (place + 1), 3))
        axes.axhline(acc.mean, color=theme.ink, linestyle=dashes, linewidth=1.3, label=joint)
        if not np.isnan(acc.half_width):
            low, high = acc.mean - acc.half_width, acc.mean + acc.half_width
            axes.axhspan(low, high, color=theme.ink, alpha=0.08, linewidth=0)
        found.append(acc.mean)
    return found


def render(figure: Figure, form: Literal["png", "svg"], *, outlines: bool = True) -> bytes:
    """Return a figure as the bytes of a PNG (160 dots an inch) or an SVG file, without a date in it.

    Args:
        figure: what to draw.
        form: the format.
        outlines: in an SVG, draw letters as shapes that look alike everywhere; False keeps them text, which
            is smaller and takes the reader's fonts.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    # The global settings are the only way to reach the salt of the ids; they are restored on exit.
    with mpl.rc_context(
        {
            "svg.hashsalt": "ong",
            "svg.fonttype": "path" if outlines else "none",
            "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
        }
    ):
        figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()


def tidy(axes: Axes, theme: Theme) -> None:
    """Leave the bottom line and faint horizontal lines, and no ticks."""
    axes.grid(axis="y", color=theme.faint, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.tick_params(length=0, which="both", colors=theme.ink)


def new_axes(size: tuple[float, float], theme: Theme) -> tuple[Figure, Axes]:
    """Return a figure on a theme's paper with one pair of axes in it."""
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=9)
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


def legend(axes: Axes, names: Sequence[str], theme: Theme) -> None:
    """Put the legend beside the axes, in the order of the names."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: names.index(labels[i]))
    drawn = axes.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=theme.ink, fontsize=9.5,
        handlelength=3.6,  # long enough to show dashes on both sides of a marker
    )  # fmt: skip
    drawn.set_in_layout(True)


def _curve(runs: Runs, strategy: str) -> list[Estimate]:
    seeds = np.stack([average_accuracy_so_far(record.matrix) for record in runs.of(strategy)])
    return [t_interval(seeds[:, t].tolist()) for t in range(runs.tasks)]


def _mean_over_seeds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell without any measurement stays NaN
        return np.asarray(np.nanmean(values, axis=0))


def _with_seeds(strategy: str, seeds: int) -> str:
    return strategy if seeds == 1 else f"{strategy}, mean of {seeds} seeds"
