"""Figures of Fisher-variance benchmarks."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ong.report.figures import Theme, new_axes, plain_ticks, tidy
from ong.report.looks import MARKERS
from ong.report.runs import HistoryRuns

__all__ = ["agreement", "through_training"]

ESTIMATORS = ("mc", "hessian", "mixture", "rademacher", "gaussian")
LEAST = 1e-8
"""Relative standard deviations below are exact zeros but for rounding; a log axis has no place for them."""


def agreement(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw measured over predicted relative standard deviations with two standard errors."""
    figure, axes = new_axes((7.2, 5.6), theme)
    extremes = []
    for i, estimator in enumerate(ESTIMATORS):
        points = np.array(
            [
                [row[key][estimator] or np.nan for key in ("predicted", "measured", "standard_error")]
                for record in runs.records
                for rows in record.history["layers"].values()
                for row in rows
            ],
            dtype=np.float64,
        )
        points = points[points[:, 0] > LEAST]
        if not len(points):
            continue
        predicted, measured, error = points.T
        axes.errorbar(
            predicted, measured, yerr=2 * error, linestyle="none", marker=MARKERS[i], markersize=4.5,
            color=theme.lines[i], elinewidth=1, alpha=0.8, label=estimator, zorder=3,
        )  # fmt: skip
        extremes += [float(predicted.min()), float(predicted.max())]
    if extremes:
        ends = np.array([min(extremes) / 1.6, max(extremes) * 1.6])
        axes.plot(ends, ends, color=theme.ink, linewidth=1.0, zorder=2)
        axes.set_xlim(ends[0], ends[1])
        axes.set_ylim(ends[0], ends[1])
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_ticks(axes)
    tidy(axes, theme)
    axes.grid(axis="x", color=theme.faint, linewidth=0.8)
    axes.set_xlabel("predicted relative std (closed form)", color=theme.ink)
    axes.set_ylabel("measured relative std", color=theme.ink)
    axes.legend(loc="upper left", frameon=False, labelcolor=theme.ink, fontsize=9.5)
    return figure


def through_training(runs: HistoryRuns, strategy: str, theme: Theme) -> Figure:
    """Draw each layer's relative standard deviations over epochs; first seed of the strategy."""
    record = runs.of(strategy)[0]
    layers, epochs = record.history["layers"], record.history["epoch"]
    figure = Figure(figsize=(3.5 * len(layers) + 1.4, 3.7), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for (number, rows), axes in zip(enumerate(layers.values(), start=1), panels, strict=True):
        axes.set_facecolor(theme.paper)
        for i, estimator in enumerate(ESTIMATORS):
            predicted, measured = (
                np.array([row[key][estimator] or np.nan for row in rows], dtype=np.float64)
                for key in ("predicted", "measured")
            )
            shown = predicted > LEAST
            axes.plot(np.array(epochs)[shown], predicted[shown], color=theme.lines[i], linewidth=1.7)
            axes.plot(
                np.array(epochs)[shown], measured[shown], linestyle="none", color=theme.lines[i], marker=MARKERS[i],
                markersize=4.5,
            )  # fmt: skip
        for colour, estimator in zip(theme.lines, ("mc", "hessian"), strict=False):
            bound = np.array([row["bound"][estimator] or np.nan for row in rows], dtype=np.float64)
            bound[~(bound > LEAST)] = np.nan
            axes.plot(epochs, bound, color=colour, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.set_yscale("log")
        plain_ticks(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes, theme)
        axes.set_title(f"layer {number}", color=theme.ink, fontsize=11, loc="left")
        axes.set_xlabel("epochs", color=theme.ink)
    panels[0].set_ylabel(f"relative std, {strategy}", color=theme.ink)
    handles = [
        Line2D([], [], color=theme.lines[i], marker=MARKERS[i], markersize=4.5, label=name)
        for i, name in enumerate(ESTIMATORS)
    ]
    handles.append(Line2D([], [], color=theme.ink, linestyle=(0, (4, 3)), linewidth=1.1, label="bound"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, labelcolor=theme.ink, fontsize=9.5)
    return figure
