"""What accuracy costs: ``ACC`` against the bytes a strategy keeps, and against the seconds it trains."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ong.report.choice import PAPERS
from ong.report.figures import (
    LIGHT,
    Theme,
    figure_text,
    legend,
    new_axes,
    painted,
    plain_ticks,
    references,
    tidy,
)
from ong.report.runs import Runs, unsized
from ong.report.tables import estimates

__all__ = ["ABOUT", "AXES", "Cost", "accuracy_against", "cost_points", "costs", "draw_accuracy_against"]

Cost = Literal["memory_bytes", "train_seconds"]

ABOUT: dict[Cost, tuple[str, str]] = {
    "memory_bytes": (
        "Accuracy against memory",
        "ACC over the bytes kept from task to task, stored inputs in the bytes they came in; a line joins one "
        "strategy's budgets. Bars are 95% t-intervals over seeds. What keeps nothing has no place here.",
    ),
    "train_seconds": (
        "Accuracy against training time",
        "ACC over the seconds of training, all tasks; a point for each strategy and budget. "
        "Bars are 95% t-intervals over seeds.",
    ),
}
"""Title and lead of each figure."""

AXES = {"memory_bytes": "bytes kept from task to task", "train_seconds": "seconds of training, all tasks"}


def costs(runs: Runs) -> list[Cost]:
    """Return the costs that runs can be drawn against: those that at least two strategies or budgets have."""
    return [cost for cost in ABOUT if sum(map(len, cost_points(runs, cost).values())) > 1]


def cost_points(runs: Runs, cost: Cost) -> dict[str, list[tuple[float, float, float]]]:
    """Return (cost, ``ACC``, half-width) of each strategy's budgets, by cost; strategies by their best ``ACC``."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for name, row in estimates(runs).items():
        if name not in runs.references and row[cost].mean > 0 and not math.isnan(row["ACC"].mean):
            points.setdefault(unsized(name), []).append((row[cost].mean, row["ACC"].mean, row["ACC"].half_width))
    return {name: sorted(found) for name, found in points.items()}


def accuracy_against(runs: Runs, cost: Cost, theme: Theme = LIGHT) -> Figure:
    """Draw mean ``ACC`` over a cost on a logarithmic axis, with its 95% t-interval over seeds.

    Against bytes, the budgets of one strategy are joined by a line. Strategies that have all tasks at once are
    horizontal lines; one that keeps nothing has no place on the axis of bytes.
    """
    paper = PAPERS[runs.choice.paper]
    figure, axes = new_axes((paper.width, paper.height), theme, paper)
    draw_accuracy_against(axes, runs, cost, theme)
    names = [*runs.references, *runs.drawn(cost_points(runs, cost))]
    legend(axes, [figure_text(runs.label(name)) for name in names], theme, paper)
    return figure


def draw_accuracy_against(axes: Axes, runs: Runs, cost: Cost, theme: Theme = LIGHT) -> None:
    """Draw the points of :func:`accuracy_against` into axes."""
    points = cost_points(runs, cost)
    points = {name: points[name] for name in runs.drawn(points)}
    painter = painted(runs, theme)
    for name, found in points.items():
        x, acc, half = np.array(found).T
        joined = cost == "memory_bytes" and len(found) > 1
        style = painter[name] | ({} if joined else {"linestyle": "none"})
        axes.errorbar(
            x, acc, yerr=np.nan_to_num(half), **style, elinewidth=1.0, capsize=2.0,
            label=figure_text(runs.label(name)), zorder=3,
        )  # fmt: skip
    joint = references(axes, runs, theme)
    axes.set_xscale("log")
    axes.margins(x=0.06)
    plain_ticks(axes)
    if cost == "memory_bytes":
        axes.xaxis.set_major_formatter(FuncFormatter(_bytes))
    ends = [acc + side * np.nan_to_num(half) for found in points.values() for _, acc, half in found for side in (-1, 1)]
    axes.set_ylim(max(0.0, min(ends + joint) - 0.01), min(1.0, max(ends + joint) + 0.01))
    axes.set_xlabel(AXES[cost], color=theme.ink)
    short = not PAPERS[runs.choice.paper].beside
    axes.set_ylabel("ACC" if short else "ACC, average accuracy at the end", color=theme.ink)
    tidy(axes, theme)


def _bytes(value: float, _: object) -> str:
    size, unit = next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")) if value >= s or s == 1)
    return f"{value / size:g} {unit}"
