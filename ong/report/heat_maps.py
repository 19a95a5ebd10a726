"""Heat maps of accuracy matrices."""

from __future__ import annotations

import warnings

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ong.report.choice import PAPERS
from ong.report.columns import MISSING
from ong.report.figures import LIGHT, Theme, figure_text, new_axes
from ong.report.runs import Runs

__all__ = ["draw_matrix", "heat_map", "mean_matrix"]

MOST_TASKS_WITH_VALUES = 12


def heat_map(runs: Runs, strategy: str, theme: Theme = LIGHT) -> Figure:
    """Draw R of one strategy, mean over its seeds, the row before training on top.

    The colours span 0 to 1 in every heat map; values are written in the cells up to T = 12; cells without a
    measurement (joint training) are grey.
    """
    wanted = min(0.42 * runs.tasks + 1.5, 9.0)
    size = min(wanted, PAPERS[runs.choice.paper].width - 0.5)
    figure, axes = new_axes((size + 0.5, size + 0.2), theme)
    draw_matrix(axes, runs, strategy, theme, scale=max(0.55, size / wanted))
    return figure


def draw_matrix(axes: Axes, runs: Runs, strategy: str, theme: Theme = LIGHT, scale: float = 1.0) -> None:
    """Draw a heat map into axes; ``scale`` is that of the letters."""
    seeds = len(runs.of(strategy))
    values = mean_matrix(runs, strategy)
    tasks = values.shape[1]
    colours = mpl.colormaps["viridis"].with_extremes(bad=theme.missing)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=0.0, vmax=1.0, aspect="equal")
    if tasks <= MOST_TASKS_WITH_VALUES:
        for (row, task), value in np.ndenumerate(values):
            ink = theme.ink if np.isnan(value) else "#111111" if value > 0.6 else "#ffffff"
            text = MISSING if np.isnan(value) else f"{value:.2f}".removeprefix("0")
            label = axes.text(task, row, text, ha="center", va="center", color=ink, fontsize=9.5 * scale)
            label.set_in_layout(False)  # it lies within the axes; measuring it takes most of the time
    axes.axhline(0.5, color=theme.paper, linewidth=2.5)
    step = 1 if tasks <= 20 else -(-tasks // 20)
    axes.set_xticks(range(0, tasks, step), [str(j) for j in range(0, tasks, step)])
    axes.set_yticks([0, *range(1, tasks + 1, step)], ["before", *(str(t) for t in range(0, tasks, step))])
    axes.set_xlabel("accuracy on task", color=theme.ink, fontsize=11 * scale)
    axes.set_ylabel("after training task", color=theme.ink, fontsize=11 * scale)
    title = figure_text(runs.label(strategy)) + (f", mean of {seeds} seeds" if seeds > 1 else "")
    axes.set_title(title, color=theme.ink, fontsize=14 * scale, loc="left")
    axes.tick_params(length=0, labelsize=10 * scale)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, ticks=[0.0, 0.25, 0.5, 0.75, 1.0])
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.ink, labelsize=8 * scale, length=0)


def mean_matrix(runs: Runs, strategy: str) -> NDArray[np.float64]:
    """Return the mean of R over a strategy's seeds, of shape [T + 1, T]; NaN where nothing was measured."""
    values = np.stack([record.matrix.values for record in runs.of(strategy)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a cell without any measurement stays NaN
        return np.asarray(np.nanmean(values, axis=0))
